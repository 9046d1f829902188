"""Run ours as the peers are run: a transfer with ImageNet weights, within two fine-tunings, in one thread."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from peer import save
from peers_photos import load

from ensemble_transfer import Few, Task, TrainerSettings, TransferEnsemble
from ensemble_transfer.metrics.predictive import ensemble_mean

HERE = TrainerSettings(accelerator="cpu", threads=1, workers=1, progress=False)


def train(task: Task, seed: int, members: int | None = None) -> TransferEnsemble:
    """Fit a number of members, or ``auto`` where there is no number."""
    chosen = "auto" if members is None else Few(members=members)
    model = TransferEnsemble(chosen, budget=2, backbone="efficientnet_lite0", seed=seed, trainer=HERE)
    return model.fit(task)


def main() -> None:
    """Fit, predict, and write probabilities and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    task = load(asked.task, asked.data, asked.seed)
    begin = time.process_time()
    model = train(task, asked.seed, **asked.settings)
    seconds = time.process_time() - begin
    splits = {"validation": task.validation, "test": task.test}
    raw = {name: ensemble_mean(model.ensemble_.predict(split.images)).numpy() for name, split in splits.items()}
    save(asked.output, seconds, **raw, comes=model.predict_proba(task.test.images))


if __name__ == "__main__":
    main()
