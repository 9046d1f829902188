"""``+experiment=debug_profile`` shows where the time of a run goes."""

import pstats

from ensemble_transfer.cli.profile import ROWS
from ensemble_transfer.layout import PROFILE


def test_a_profiled_run_leaves_its_table(cli, quick, tmp_path):
    code, out, err = cli("strategy=head", "+experiment=debug_profile", *quick, "hydra.run.dir=run")
    assert code == 0, err
    path = tmp_path / "run" / PROFILE
    text = path.read_text(encoding="utf-8")
    assert text in out
    alone, _, inclusive = text.partition("Functions of ensemble_transfer")
    assert "run_backward" in alone
    rows = [line.split()[-1] for line in inclusive.splitlines() if ".py:" in line]
    assert len(rows) == ROWS
    assert all(row.startswith("ensemble_transfer/") for row in rows)
    functions = {name for _, _, name in pstats.Stats(str(path.with_suffix(".pstats"))).stats}
    assert {"train_source", "training_step", "predict"} <= functions


def test_a_run_that_fails_has_its_line_and_no_table(cli, quick, tmp_path):
    code, out, err = cli("strategy=head", "+experiment=debug_profile", *quick, "seed=-1", "hydra.run.dir=run")
    assert (code, out) == (2, "")
    assert err.startswith("error: seed=-1: ")
    assert not (tmp_path / "run" / PROFILE).exists()
