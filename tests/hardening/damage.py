"""Flip bits of files, or cut them off: what reads them must notice, or find the same content."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

Read = Callable[[Path], object]


def damage(path: Path, rng: random.Random) -> str:
    """Flip a bit of a file, or cut it off, and return what was done."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.2:
        path.write_bytes(data[:place])
        return f"cut off at {place}"
    bit = rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def prepare(whole: Path) -> None:
    """Add the files that a finished run does not leave: a checkpoint, decoded images, the name of a tracked run."""
    import torch

    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.tasks.mapped import stored
    from ensemble_transfer.training.store import Store, Unfinished

    weights, images = {"w": torch.rand(50)}, torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8)
    Store(whole / "store").put_unfinished("ab" * 32, Unfinished(weights, {}, torch.rand(3, 2), 7, 1.5, 1.25))
    stored(whole / "cache" / "some.npy", (1, 8, 8), lambda notes: notes.update({3: "broken"}) or [images])
    TrackedRun(whole / "run", "name", "group", "shift").id()


def readers() -> dict[str, tuple[str, Read]]:
    """Return, for each kind of file, a pattern that finds it and a function that reads it and returns its content."""
    from ensemble_transfer.metrics.archive import read_predictions
    from ensemble_transfer.models.ensemble import Ensemble
    from ensemble_transfer.report.tracked_run import TrackedRun
    from ensemble_transfer.runs.files import open_saved
    from ensemble_transfer.training.store import Store
    from ensemble_transfer.transfer.shift.vector import ShiftVector
    from ensemble_transfer.weights import fingerprint

    def fit(path: Path) -> object:
        fitted = Store(path.parents[2]).get(path.stem)
        return None if fitted is None else (fingerprint(fitted.weights), asdict(fitted.cost))

    def unfinished(path: Path) -> object:
        state = Store(path.parents[2]).unfinished(path.parent.name)
        return None if state is None else (fingerprint(state.weights), hashed(state.curve.numpy()), state.step)

    def shift(path: Path) -> object:
        vector = ShiftVector.load(path)
        return fingerprint(vector.vector), vector.scale, dict(vector.provenance)

    def calibration(path: Path) -> object:
        found = open_saved(path.parents[1]).calibration
        return found and (found.temperature, found.confidence.tolist(), found.correct.tolist())

    def tracked(path: Path) -> object:
        """Return that a tracked run has a name: a file that is damaged gives a new one."""
        return TrackedRun(path.parents[1], "", "", "shift").id().isalnum()

    return {
        "records": ("run/record.json", read_record),
        "fits of the store": ("store/fits/*/*.safetensors", fit),
        "unfinished fits": ("store/unfinished/*/last.ckpt", unfinished),
        "source ensembles": ("store/ensembles/*/member_*.safetensors", lambda p: Ensemble.load(p.parent).fingerprint),
        "members": ("run/ensemble/member_*.safetensors", lambda p: Ensemble.load(p.parent).fingerprint),
        "descriptions": ("run/ensemble/ensemble.json", lambda p: Ensemble.load(p.parent).fingerprint),
        "calibrations": ("run/ensemble/calibration.safetensors", calibration),
        "shift vectors": ("run/shift.safetensors", shift),
        "predictions": ("run/predictions.npz", lambda p: hashed(read_predictions(str(p))[0])),
        "decoded images": ("cache/*.npy", _decoded),
        "notes of decoded images": ("cache/*.json", _decoded),
        "names of tracked runs": (
            "run/wandb/run_id.json",
            tracked,
        ),
    }


def read_record(path: Path) -> object:
    """Return the fields of a record; raise an AssertionError if they are not those of its file."""
    from ensemble_transfer.report.record import Record

    found = asdict(Record.load(path))
    written = json.loads(path.read_text(encoding="utf-8"))
    if any(written[name] != value for name, value in found.items()):
        raise AssertionError("the record that was read is not the one in the file")
    return found


def _decoded(path: Path) -> object:
    """Return decoded images and their notes; None if they would be decoded again."""
    from ensemble_transfer.tasks import mapped

    mapped._whole.clear()
    found = mapped._opened(path.with_suffix(".npy"))
    return None if found is None else (hashed(found[0].numpy()), found[1])


def hashed(data: Any) -> object:
    """Return nested data with a hash for each array."""
    if isinstance(data, Mapping):
        return {str(name): hashed(value) for name, value in data.items()}
    if isinstance(data, tuple):
        return [hashed(value) for value in data]
    return data if data is None else hashlib.sha256(data.tobytes()).hexdigest()


def flip(whole: Path, pattern: str, read: Read, rng: random.Random) -> str | None:
    """Damage one file of a kind, read it, and put it back; return what went wrong."""
    path = rng.choice(sorted(whole.glob(pattern)))
    kept, done = path.read_bytes(), "as it was written"
    try:
        before = read(path)
        done = damage(path, rng)
        after = read(path)
    except ValueError as error:
        return f"{path.name}, {done}: {error}" if done == "as it was written" else None  # refused, as it should be
    except Exception as error:  # noqa: BLE001  # any other error is what we look for
        return f"{path.name}, {done}: {type(error).__name__}: {error}"
    finally:
        path.parent.mkdir(exist_ok=True)  # a damaged checkpoint is removed with its folder
        path.write_bytes(kept)
    return None if after in (before, None) else f"{path.name}, {done}: accepted with another content"
