"""The table of a folder of results: which aims they meet, computed from the JSON files, in the page's marked place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

AIMS = (
    ("overhead", "a fit against a plain loop, 1 member", "M=1/ratio fit to plain, CPU", "at most", 1.03),
    ("overhead", "a fit against a plain loop, 8 members", "M=8/ratio fit to plain, CPU", "at most", 1.0),
    ("executor", "`auto` against the faster executor", "*/ratio auto to the faster, wall", "at most", 1.05),
    ("workers", "8 members by 2 processes against 1, wall seconds", "ratio 2 workers to 1, wall", "at most", 0.6),
    ("workers", "the same in the main job, start-up included", "source *, ratio 2 workers to 1*", "at most", 0.55),
    ("workers", "weights equal to those of 1 process, bit for bit", "* same weights as 1", "at least", 1.0),
    ("predict", "`predict` against the slower of decoding and network", "ratio predict to the slower*", "at most", 1.1),
    ("predict", "8 heads on one trunk against one network", "ratio 8 heads to 1 heads, CPU", "at most", 1.1),
    ("memory", "MB of 32 members beyond the imports", "M=32, */peak MB", "at most", 2000.0),
    ("memory", "MB of README's command on 2,000 photos", "photos of *", "at most", 2000.0),
    (
        "scale",
        "MB of a run on 100,000 images",
        "100000 images, M=2/peak MB, imports included",
        "at most",
        2000.0,
    ),
    ("startup", "`--help` against `import torch`", "ratio --help to import torch, CPU", "at most", 1.0),
    ("startup", "to the first step against the imports", "ratio first step to imports, CPU", "at most", 1.5),
    ("startup", "the main job from the store against the imports", "ratio warm run to imports, CPU", "at most", 2.0),
)
"""Benchmark, what it compares, a pattern of its keys, and the limit for the worst of its cases."""

PLACE = re.compile(r"(?<=<!-- aims -->\n)(?:\|.*\n)*")


def table(results: Mapping[str, Mapping[str, object]]) -> str:
    """Return the table of the aims of which something was measured."""
    lines = ["| benchmark | what | aim | measured | met |", "| --- | --- | --- | --- | --- |"]
    for name, what, keys, bound, limit in AIMS:
        numbers = [float(v) for key, v in results.get(name, {}).items() if fnmatchcase(key, keys)]  # type: ignore[arg-type]
        if numbers:
            worst = max(numbers) if bound == "at most" else min(numbers)
            met = worst <= limit if bound == "at most" else worst >= limit
            shown = f"{worst:,.0f}" if abs(worst) >= 100 else f"{worst:.4g}"
            aim = f"{bound} {limit:g}"
            lines.append(f"| [{name}]({name}.json) | {what} | {aim} | {shown} | {'yes' if met else '**no**'} |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write the table into a folder's ``README.md``, whose other text stays."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Speed and memory\n\n<!-- aims -->\n"
    page.write_text(PLACE.sub(lambda _: table(results), text, count=1), encoding="utf-8")
