"""Give values to settings and run the job: it must refuse them in one line, or finish."""

import contextlib
import io
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from world import SMALL

VALUES = ["[1]", "{a:1}", "null", "-1", "nan", "inf", "-inf", "abc", "1e400", "1e14", "true", "", "0", "1.5", '""']
VALUES += ["${nope}", "${seed}", "${oc.env:NOPE}", "Кот", "it's", "[", "}", "a,b", "..", "/dev/null", "'\x00'"]
VALUES += ["9" * 40, "2", "1e308", "a" * 300]

IMPOSSIBLE = (
    ("seed", "-1"),
    ("recipe.full.lr", "-1"),
    ("ensemble.size", "0"),
    ("budget", "1e308"),
    ("trainer.threads", "0"),
    ("evaluation.ood", "1"),
    ("backbone.options.stem_width", "0"),
    ("dataset.target.train", "-1"),
)
"""Settings with values that no run can have: each must be refused."""


def inputs(count: int, rng: random.Random) -> Iterator[tuple[str, str, bool]]:
    """Yield settings, values, and whether they must be refused."""
    names = settings()
    for setting, value in IMPOSSIBLE[:count]:
        yield setting, value, True
    for _ in range(count - len(IMPOSSIBLE)):
        yield rng.choice(names), rng.choice(VALUES), False


def mistype(setting: str, value: str, folder: Path, impossible: bool = False) -> str | None:
    """Run the small job with a value of a setting; return what is not as a user should see it.

    Args:
        setting: The setting.
        value: Its value.
        folder: Where; the store in it is kept for the next one.
        impossible: Whether the value must be refused.
    """
    from hydra.core.global_hydra import GlobalHydra

    from ensemble_transfer.cli import main

    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    GlobalHydra.instance().clear()
    err, argv = io.StringIO(), sys.argv
    sys.argv = ["ensemble_transfer", "strategy=shift", *SMALL, f"{setting}={value}"]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = main.main()
    except BaseException as error:  # noqa: BLE001  # whatever escapes is a failure
        return f"{setting}={value}: {type(error).__name__}: {error}"
    finally:
        sys.argv = argv
    return _judged(f"{setting}={value}", code, err.getvalue(), folder, impossible)


def _judged(what: str, code: int, said: str, folder: Path, impossible: bool) -> str | None:
    """Return what is wrong with how a job ended."""
    lines = [line for line in said.splitlines() if line]
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 0 and not impossible:
        return None if not errors and _finished(folder) else f"{what}: exit code 0 without a finished record"
    refused = code == 2 and len(errors) == 1 and lines[-1] == errors[0]
    if refused and "the run failed with" not in said and "Traceback" not in said:
        return None
    return f"{what}: exit code {code}: {' '.join(lines)[-300:] if code else 'accepted'}"


def _finished(folder: Path) -> bool:
    """Return whether a job has left a finished record, wherever it was told to."""
    places = [*folder.rglob("record.json"), *folder.parent.glob("*/record.json")]
    return any('"status": "finished"' in path.read_text(encoding="utf-8") for path in places)


def settings() -> list[str]:
    """Return the names of all settings."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ensemble_transfer.report.settings import flat
    from ensemble_transfer.runs.presets import conf_folder

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=["strategy=shift"]))
    return [name for name, _ in flat(config)]
