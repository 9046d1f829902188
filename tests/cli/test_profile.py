"""``+experiment=debug_profile`` shows where the time of a run goes."""

import pstats

from ensemble_transfer.cli.profile import FILE, ROWS


def test_a_profiled_run_prints_its_table_and_keeps_the_rest(cli, quick, tmp_path):
    code, out, err = cli("strategy=head", "+experiment=debug_profile", *quick, "hydra.run.dir=run")
    assert code == 0, err
    alone, _, inclusive = out.partition("Functions of ensemble_transfer")
    assert "run_backward" in alone
    rows = [line.split()[-1] for line in inclusive.splitlines() if ".py:" in line]
    assert len(rows) == ROWS
    assert all(row.startswith("ensemble_transfer/") for row in rows)
    functions = {name for _, _, name in pstats.Stats(str(tmp_path / "run" / FILE)).stats}
    assert {"train_source", "training_step", "predict"} <= functions
