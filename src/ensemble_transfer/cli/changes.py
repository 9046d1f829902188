"""Finished runs whose images, weights or code have changed since: they are told, set aside, and run again."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensemble_transfer.cli.finished import finished
from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import OUTDATED
from ensemble_transfer.report.record import Record


def outdated(runs: Iterable[tuple[Mapping[str, Any], Path]]) -> set[Path]:
    """Set aside the records of finished runs that read other files, or ran other code, than they would now.

    Args:
        runs: Configuration and record of each run that is not to be repeated.

    Returns:
        The records that are not there any more; a line for every setting tells how many.
    """
    from ensemble_transfer.runs.inputs import changed

    gone, now, told, images = set[Path](), dict[str, Mapping[str, str] | str](), Counter[str](), dict[str, str]()
    for config, path in runs:
        key, record = json.dumps(_reading(config), sort_keys=True), finished(path)
        now[key] = known = now[key] if key in now else _inputs(config)
        if record is None or isinstance(known, str):
            told[f"what they read cannot be looked at: {known}"] += record is not None
        elif record.inputs is None:
            told["they do not say what they read, as later ones do; remove their folders to repeat them"] += bool(known)
        elif other := changed(record.inputs, known):
            names = [name for name in other if not _same_images(name, record, images)]
            told.update(f"{_shown(config, name)} has changed since: they run again" for name in names)
            gone |= {path} if names else set()
            with suppress(OSError):  # somebody else's folder
                if names:
                    path.replace(path.with_name(OUTDATED))
                else:  # so that they are not read the next time
                    replace(record, inputs=known).save(path.parent)
    for line, number in (+told).items():
        sys.stderr.write(f"warning: {number} finished run{'s' * (number != 1)}: {line}\n")
    return gone


def _inputs(config: Mapping[str, Any]) -> Mapping[str, str] | str:
    """Return the inputs of a run of a configuration as they are now, or in words why they are not known."""
    from ensemble_transfer.cli.build import build_experiment
    from ensemble_transfer.runs.inputs import inputs_of

    try:
        return inputs_of(build_experiment(config))
    except SettingError as error:
        return str(error)


def _same_images(name: str, record: Record, known: dict[str, str]) -> bool:
    """Return whether a task has the images of a record after all: files that were copied differ in place and times.

    The images are loaded once for all runs of a data set, however they divide it; ``known`` keeps their fingerprint.
    """
    from ensemble_transfer.cli.build import build_experiment
    from ensemble_transfer.runs.experiment import DIVISION
    from ensemble_transfer.runs.inputs import images_of

    before = record.images.get(name.removeprefix("dataset."))
    if before is None or not name.startswith("dataset."):
        return False
    dataset = record.config["dataset"]
    task = {key: value for key, value in dataset[name.removeprefix("dataset.")].items() if key not in DIVISION}
    key = json.dumps([task, dataset["image_size"], dataset["channels"]], sort_keys=True)
    if key not in known:
        known[key] = ""
        with suppress(SettingError, OSError, ValueError):  # the run will tell
            known[key] = images_of(build_experiment(record.config), name)
    return known[key] == before


def _reading(node: Any) -> Any:  # noqa: ANN401
    """Return what a configuration says of files and of code: not the numbers, but those of classes of one's own."""
    if isinstance(node, Mapping):
        own = not str(node.get("_target_", "ensemble_transfer.")).startswith("ensemble_transfer.")
        return node if own else {name: _reading(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_reading(value) for value in node]
    return node if isinstance(node, str) else None


def _shown(config: Mapping[str, Any], name: str) -> str:
    """Return a setting with its value, such as ``dataset.target (photos)``."""
    node: Any = config
    for part in name.removeprefix("the code of ").split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    own = ["_target_"] if name.startswith("the code of ") else ["path", "_target_"]
    value = next(node[key] for key in own if key in node) if isinstance(node, Mapping) else node
    return f"{name} ({', '.join(value) if isinstance(value, list) else value})"
