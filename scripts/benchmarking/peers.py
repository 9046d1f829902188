"""A fit against torch-uncertainty (deep_ensembles) and torchensemble (VotingClassifier): same networks, data, epochs.

Each library works in a process of its own that stays alive, and they take turns; only training is timed. The peers live
in a virtual environment of their own, with the same torch. Ours is measured as it comes (members one after another),
with the peers' layout of images, and with vectorised members (`trainer.executor=vectorised`). Aim: ours is not slower
than the faster peer. With two processes, `trainer.workers=2` is measured against torchensemble's `n_jobs=2`, in wall
seconds: the CPU seconds of further processes are not seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarking.measure import Options, Result, Seconds, digits, medians, ratios, under

EPOCHS = 4
OURS = {"ours": "ours", "ours, channels first": "ours_channels_first", "ours vectorised": "ours_vectorised"}
LIBRARIES = {"torch-uncertainty": "torch_uncertainty", "torchensemble": "torchensemble"}
TWO = {"ours, 2 processes": "ours_two", "torchensemble, 2 processes": "torchensemble_two"}
NEEDED = ["torchvision", "timm", "lightning", "rich", "scikit-learn<1.7", "joblib", "torch-uncertainty"]


def run(options: Options) -> Result:
    """Time all three with 4, 8 and 16 members; a peer that cannot be imported is said and left out."""
    assert options.peers_env is not None
    python = options.peers_env / "bin" / "python"
    if options.install:
        install(options.peers_env)
    if not python.exists():
        raise SystemExit(f"error: there is no {python}; add --install")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.pt")
        data = digits(64 if options.quick else 500)
        torch.save({"images": data.images, "labels": data.labels}, path)
        workers = {name: Worker(sys.executable, way, path) for name, way in OURS.items()}
        workers |= {name: Worker(str(python), module, path) for name, module in LIBRARIES.items()}
        two, theirs = TWO.items()
        workers |= {two[0]: Worker(sys.executable, two[1], path), theirs[0]: Worker(str(python), theirs[1], path)}
        ready = {name: worker for name, worker in workers.items() if worker.failure is None}
        found: Result = {f"{n} failed": str(w.failure) for n, w in workers.items() if w.failure is not None}
        for members in (2,) if options.quick else (4, 8, 16):
            found |= under(f"M={members}", compare(ready, members, 1 if options.quick else 3))
        for worker in ready.values():
            found[f"{worker.library} versions"] = worker.versions
            worker.close()
    return found


def compare(workers: dict[str, Worker], members: int, repeats: int) -> Result:
    """Return the medians of the seconds and ours, both ways, against each peer and the faster one."""
    times: dict[str, list[Seconds]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            times[name].append(worker.fit(members, EPOCHS))
    found: Result = {}
    for way in OURS:
        against = [ratios(times, way, name) for name in LIBRARIES if name in workers]
        for each in against:
            found |= each
        for clock in ("CPU", "wall") if against else ():
            largest = max(float(value) for each in against for key, value in each.items() if key.endswith(clock))
            found[f"ratio {way} to the faster peer, {clock}"] = largest
    if all(name in workers for name in TWO):
        found |= {key: value for key, value in ratios(times, *TWO).items() if key.endswith("wall")}
    return found | {key: s for key, s in medians(times).items() if not key.endswith("2 processes, CPU s")}


def install(folder: Path) -> None:
    """Make the environment of the peers; torchensemble states old dependencies, so it comes without them."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    same = f"torch=={torch.__version__.partition('+')[0]}"
    subprocess.run([*pip, same, *NEEDED], check=True)
    subprocess.run([*pip, "--no-deps", "torchensemble"], check=True)


class Worker:
    """A process of peers_worker.py: one request a line, one answer a line.

    Attributes:
        failure: Why the library cannot be used; None where it can.
        versions: The library's version and torch's.
    """

    def __init__(self, python: str, library: str, data: Path) -> None:
        self.library = library
        script = Path(__file__).with_name("peers_worker.py")
        command = [python, str(script), library, str(data)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        hello = self._answer()
        self.failure: str | None = hello.get("failure")
        self.versions = str(hello.get("versions", ""))

    def fit(self, members: int, epochs: int) -> Seconds:
        """Train an ensemble and return what it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([members, epochs]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Seconds(answer["wall"], answer["cpu"])

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"failure": "its process ended; run peers_worker.py by hand"}
