"""The model card: ``README.md`` in an ensemble's folder, for users who have only the folder.

The Hugging Face hub reads its front matter.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble_transfer.inference.export import preprocessing
from ensemble_transfer.layout import CARD, replacing
from ensemble_transfer.metrics.selective import interval
from ensemble_transfer.models.ensemble import Ensemble

_QUALITY = {
    "accuracy of the ensemble": "ensemble/accuracy",
    "accuracy of a member, mean": "member/accuracy",
    "negative log likelihood (NLL, nats)": "ensemble/nll",
    "NLL with the temperature": "calibrated/nll",
    "expected calibration error (ECE, 15 bins)": "calibration/ece",
    "ECE with the temperature": "calibrated/ece",
    "temperature, fitted on validation": "calibrated/temperature",
    "disagreement of two members": "diversity/disagreement",
}

_TO_THE_HUB = {
    "accuracy": ("Accuracy", "ensemble/accuracy"),
    "nll": ("Negative log likelihood", "ensemble/nll"),
    "ece": ("Expected calibration error", "calibration/ece"),
}

_TEST = "target/test/"


def write_card(
    folder: Path,
    ensemble: Ensemble,
    metrics: Mapping[str, float | None] | None = None,
    cost: Mapping[str, Any] | None = None,
    examples: Mapping[str, int] | None = None,
) -> Path:
    """Write ``README.md`` into an ensemble's folder, and return its path.

    Args:
        folder: Folder of the ensemble.
        ensemble: The ensemble.
        metrics: Metrics of the run, under the keys of a record (``target/test/...``); None if it was not evaluated.
        cost: Cost of the run, as in its record; None if it is not known.
        examples: Number of images of the target task by split (``train``, ``validation``, ``test``).
    """
    known = {k: v for k, v in (metrics or {}).items() if v is not None and math.isfinite(v)}
    measured = {k.removeprefix(_TEST): v for k, v in known.items() if k.startswith(_TEST)}
    history = {name: _line(value) for name, value in ensemble.history.items()}
    name = f"{_line(ensemble.architecture.backbone)} ensemble"
    if tasks := [history[key] for key in ("source", "target") if key in history]:
        name += f", {' to '.join(tasks)}"
    parts = [
        _front_matter(ensemble, measured, name),
        f"# {name}",
        _opening(len(ensemble.members), history),
        *_table([("", ""), *_facts(ensemble)]),
        *_results(measured, examples or {}),
        *_costs(cost or {}, len(ensemble.members)),
        _use(ensemble),
        _limits(examples or {}),
    ]
    with replacing(folder / CARD) as beside:
        beside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return folder / CARD


def _front_matter(ensemble: Ensemble, metrics: Mapping[str, float], name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    target = str(ensemble.history.get("target", "target"))
    of: dict[str, Any] = {"dataset_type": target, "dataset_name": target, "dataset_split": "test"}
    results = [
        EvalResult("image-classification", metric_type=kind, metric_value=metrics[key], metric_name=title, **of)
        for kind, (title, key) in _TO_THE_HUB.items()
        if key in metrics
    ]
    evaluated: dict[str, Any] = {"metrics": ["accuracy"], "model_name": name, "eval_results": results}
    data = ModelCardData(
        library_name="ensemble_transfer",
        pipeline_tag="image-classification",
        tags=["ensemble", "transfer-learning", "uncertainty", "image-classification", ensemble.architecture.backbone],
        **(evaluated if results else {}),
    )
    return f"---\n# license: yours to state, with that of the data and of pretrained weights\n{data.to_yaml()}\n---"


def _opening(members: int, history: Mapping[str, str]) -> str:
    text = f"{members} image classifiers of one architecture, whose probabilities are averaged."
    if "target" in history and "strategy" in history:
        begun = f"Trained on {_code(history['source'])} and moved to" if "source" in history else "Fitted to"
        text += f" {begun} {_code(history['target'])} by the strategy {_code(history['strategy'])}"
        how = history.get("about", "").rstrip(".")
        text += f": {how[0].lower()}{how[1:]}." if how else "."
    elif "source" in history:
        text += f" Trained on {_code(history['source'])}; not moved to another task."
    return text + " Made with ensemble_transfer."


def _facts(ensemble: Ensemble) -> Iterator[tuple[str, str]]:
    """Yield what the ensemble is and came from, as rows of a table."""
    a = ensemble.architecture
    shown = ", ".join(_code(name) for name in ensemble.classes[:20])
    more = f" and {len(ensemble.classes) - 20} more (`ensemble.json`)" if len(ensemble.classes) > 20 else ""
    yield f"{len(ensemble.classes)} classes", shown + more
    for step, how in preprocessing(a, ensemble.sizes).items():
        yield step, str(how)
    weights = sum(tensor.numel() for tensor in ensemble.members[0].values())
    yield "members", f"{len(ensemble.members)}, each {_code(a.backbone)} with {weights:,} weights and statistics"
    yield "options", _code(json.dumps(dict(a.options)))
    yield "lineage", _code(ensemble.lineage)
    for key, value in ensemble.history.items():
        yield _line(key).replace("_", " "), _code(value if isinstance(value, str) else json.dumps(value))


def _results(metrics: Mapping[str, float], examples: Mapping[str, int]) -> Iterator[str]:
    yield "## Results"
    rows = [(name, f"{metrics[key]:.4f}") for name, key in _QUALITY.items() if key in metrics]
    if not rows:
        yield "Not evaluated: no metrics were known when this card was written."
        return
    yield "On the test images of the target task, which were not used for any choice:"
    yield from _table([("metric", "value"), *rows])
    if "test" in examples:
        low, high = interval(round(metrics["ensemble/accuracy"] * examples["test"]), examples["test"])
        yield (
            f"95% interval of the accuracy from {examples['test']:,} images (Clopper-Pearson): {low:.3f} to {high:.3f}."
        )


def _costs(cost: Mapping[str, Any], members: int) -> Iterator[str]:
    named = {f"moving all {members} members": "total", "one more member": "marginal", "training the source": "source"}
    spent = {name: cost[key] for name, key in named.items() if cost.get(key)}
    if spent:
        yield "## Cost of training"
        shares = {name: [of.get(key) for key in ("fine_tunings", "fine_tunings_by_time")] for name, of in spent.items()}
        told = {name: ["-" if share is None else f"{share:.2f}" for share in of] for name, of in shares.items()}
        rows = [
            (name, f"{of['steps']:,.0f}", f"{of['flops'] / 1e9:,.1f}", *told[name], f"{of['seconds']:,.1f}")
            for name, of in spent.items()
        ]
        yield from _table([("", "optimizer steps", "GFLOPs", "fine-tunings", "by time", "seconds"), *rows])
        yield "A fine-tuning is one full fine-tuning of one member, by FLOPs, forward and backward, and by time."
    if "prediction" in cost:
        networks, flops = cost["prediction"]["networks"], cost["prediction"]["flops"]
        yield f"A prediction takes {flops / 1e6:,.1f} MFLOPs an image; networks: {networks}."


def _use(ensemble: Ensemble) -> str:
    a, members = ensemble.architecture, len(ensemble.members)
    images = f"uint8 (N, {a.channels}, {a.image_size}, {a.image_size})"
    return f"""\
## Use

Loading needs the package `ensemble_transfer` and executes nothing from this folder:

```python
from pathlib import Path
from ensemble_transfer.models.ensemble import Ensemble
probabilities = Ensemble.load(Path("FOLDER")).predict(images)  # {images} -> ({members}, N, {a.classes})
```

`probabilities.mean(0)` is the ensemble's prediction. For image files, with uncertainty and abstention:

```
python -m ensemble_transfer predict FOLDER IMAGES... --risk 0.05 --output predictions.csv
```

The temperature and the validation predictions for `--risk` are in `calibration.safetensors`, if the run wrote one. For
use without Python, `python -m ensemble_transfer export FOLDER OUT.onnx` writes one ONNX file, whose metadata hold
classes, temperature and preprocessing."""


def _limits(examples: Mapping[str, int]) -> str:
    points = [
        *([f"The target task had {examples['train']:,} training images with labels."] if "train" in examples else []),
        "Every image gets one of the classes, whatever it shows; `--risk` and `--coverage` abstain.",
        "Temperature and thresholds hold for images like those of the validation split, not after a shift of domain.",
        "Fairness, privacy and adversarial inputs were not tested. Other seeds give other numbers.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table, whose first row is the header."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    yield "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _code(text: object) -> str:
    """Return text as code on one line: a class may be called anything."""
    return f"`{_line(text).replace('`', chr(39))}`"
