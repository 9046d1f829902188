"""The page of a folder of results: which aims they meet, computed from the JSON files, and what a person found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Aim:
    """What a benchmark is to reach: at most, or at least, a limit, in the worst of its cases.

    Args:
        benchmark: Its name.
        what: In words.
        keys: A pattern of its keys (``*`` matches anything).
        limit: The limit.
        at_least: Whether the number is to be above the limit.
    """

    benchmark: str
    what: str
    keys: str
    limit: float
    at_least: bool = False

    def row(self, results: dict[str, object]) -> list[str] | None:
        """Return the row of the table; None where nothing was measured."""
        found = [float(value) for key, value in _numbers(results) if fnmatchcase(key, self.keys)]
        if not found:
            return None
        worst = min(found) if self.at_least else max(found)
        met = worst >= self.limit if self.at_least else worst <= self.limit
        limit = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        return [
            f"[{self.benchmark}]({self.benchmark}.txt)",
            self.what,
            limit,
            f"{worst:,.0f}" if abs(worst) >= 100 else f"{worst:.3g}",
            "yes" if met else "**no**",
        ]


AIMS = (
    Aim("overhead", "a fit against a plain loop, 1 member", "M=1/ratio fit to plain, CPU", 1.10),
    Aim("overhead", "a fit against a plain loop, 8 members", "M=8/ratio fit to plain, CPU", 1.02),
    *(
        Aim("peers", f"against the faster peer, {m} members{words}", f"M={m}/ratio {way} to the faster peer, CPU", 1.0)
        for way, words in (("ours", ""), ("ours vectorised", ", vectorised"))
        for m in (4, 8, 16)
    ),
    Aim("peers", "2 processes against torchensemble's, wall seconds", "*/ratio ours, 2 processes to *, wall", 1.0),
    Aim("executor", "`auto` against the faster executor", "*/ratio auto to the faster, wall", 1.05),
    Aim("batches", "batches made on the GPU against sent to it", "*/ratio there to sent, wall", 0.5),
    Aim("channels_last", "a fit with channels last against channels first", "fit, */ratio last to first, CPU", 1.0),
    Aim("channels_last", "a prediction, likewise", "prediction, */ratio last to first, CPU", 1.0),
    Aim("workers", "8 members by 2 processes against 1, wall seconds", "ratio 2 workers to 1, wall", 0.6),
    Aim("workers", "weights equal to those of 1 process, bit for bit", "* same weights as 1", 1, at_least=True),
    Aim("memory", "MB of 32 members beyond the imports", "M=32, */peak MB", 2000),
    Aim("scale", "MB of a run on 100,000 images of 32 pixels", "100000 images, M=2/peak MB, imports included", 2000),
    Aim(
        "cache",
        "frozen forward against cached features, 1 member",
        "M=1/ratio frozen to cached, CPU",
        10,
        at_least=True,
    ),
    Aim(
        "cache",
        "frozen forward against cached features, 8 members",
        "M=8/ratio frozen to cached, CPU",
        10,
        at_least=True,
    ),
    *(
        Aim("shift", f"{what} against the donor's fine-tuning", f"{key}: * ratio to the donor", 0.05)
        for what, key in (("statistics of a recipient", "statistics, a recipient"),)
    ),
    Aim("startup", "`--help` against `import torch`", "ratio --help to import torch, CPU", 1.0),
    Aim("startup", "to the first step against the imports", "ratio first step to imports, CPU", 1.5),
    Aim("startup", "the main job from the store against the imports", "ratio warm run to imports, CPU", 2.0),
)


def write(folder: Path) -> None:
    """Write ``README.md`` from the results in a folder, with ``FINDINGS.md`` where there is one."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    rows = [row for aim in AIMS if (row := aim.row(results.get(aim.benchmark, {})))]
    parts = [
        "# Speed and memory",
        "Written by `scripts/benchmark.py ... --save`. CPU seconds (of the parts of a shift, operations too), the "
        "worst case of each benchmark; a name leads to all numbers, with machine, versions and load.",
        "\n".join(
            "| " + " | ".join(cells) + " |"
            for cells in [["benchmark", "what", "aim", "measured", "met"], ["---"] * 5, *rows]
        ),
    ]
    findings = folder / "FINDINGS.md"
    if findings.is_file():
        parts.append(findings.read_text(encoding="utf-8").strip())
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _numbers(results: dict[str, object]) -> Iterator[tuple[str, float]]:
    return ((key, float(value)) for key, value in results.items() if isinstance(value, int | float))
