"""Members of several image sizes in one ensemble, through the commands."""

from dataclasses import replace

from omegaconf import OmegaConf

from ensemble_transfer.cli import export, extend
from ensemble_transfer.cli.rivals import _jobs
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record


def test_a_mixed_ensemble_goes_through_the_commands(cli, quick, tmp_path, capsys, monkeypatch):
    stored = [*quick, "dataset.image_size=16", "recipe.image_size=8"]
    few = ["strategy=few", "strategy.image_size=[8,16]", "budget=4"]
    code, _, err = cli(*few, *stored, "hydra.run.dir=mixed")
    assert code == 0, err
    record, mixed = Record.load(tmp_path / "mixed" / "record.json"), Ensemble.load(tmp_path / "mixed" / "ensemble")
    assert record.ensemble["image_sizes"] == [*mixed.image_sizes] == [8, 16]
    assert 0.8 * 4 < record.cost["total"]["fine_tunings"] <= 4
    assert not [name for name in record.metrics if name.startswith("soup/")]
    assert "8, 16 pixels" in (tmp_path / "mixed" / "ensemble" / "README.md").read_text()

    jobs = [*_jobs(replace(record, strategy="head"), record.config, OmegaConf.create(), 1)]
    told = {job.name: (job.settings["strategy"]["image_size"], job.settings["budget"]) for job in jobs}
    baseline, snapshots = told.pop("baseline"), told.pop("snapshots")
    assert baseline == (None, 1.0)  # of dataset.image_size, at which a fine-tuning is not counted
    assert snapshots[0] is None
    assert {size for sizes, _ in told.values() for size in sizes} == {16, 8}

    monkeypatch.setattr(export, "NEEDED", ())
    assert export.main(["mixed", "soup.onnx", "--soup"]) == 2
    assert capsys.readouterr().err == "error: soup=True: needs members of one image size; these have [8, 16]\n"

    small = ["strategy=shift", "strategy.image_size=8", *stored, "ensemble.members=[mixed]", "hydra.run.dir=shift"]
    code, _, err = cli(*small)
    assert code == 0, err
    assert extend.main(["shift", "ensemble.members=[mixed/ensemble/member_00.safetensors]"]) == 0
    grown = Ensemble.load(tmp_path / "shift" / "extended_3" / "ensemble")
    assert grown.image_sizes == (8, 8, 8)
