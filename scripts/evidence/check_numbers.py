"""Find every number of README and docs that states a result in what it came from; list those without a source.

    python scripts/evidence/check_numbers.py                           # README.md and docs/*.md
    python scripts/evidence/check_numbers.py docs/budget.md --run      # and run the commands that sources name

A result is a number with a decimal point, or one with a unit of time, memory or quality, outside of code and links. Its
paragraph, item or row names the source by a link to ``benchmarks``; or a comment before the paragraph, list or table:

    <!-- numbers: benchmarks/fast -->                            the numbers are in the files of this folder, rounded
    <!-- numbers: python scripts/benchmarks/benchmark.py prices -->      this command prints them
    <!-- numbers: set -->                                        no result: somebody has set or assumed them

An estimate with its interval, ``x [low, high]``, must be in the source as a whole; in a table, or where its sign is
written, with this sign, and elsewhere from either side. A verdict right behind it, in the same cell or the next one,
must be in the source's line too, for verdicts change when more claims are told. Other numbers are found one by one, by
their value: in a large source nearly every small number is found, so this lists what is without a source, not all that
is wrong.

The exit code is 1 if a number has no source, or is not in it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMENT = re.compile(r"<!-- numbers: (.+?) -->")
PLACE = re.compile(r"[(`]((?:\.\./)*benchmarks/[\w./-]+)[)`]")
NO_RESULT = re.compile(r"(?s)`[^`]*`|\]\([^)]*\)|<!--.*?-->|arXiv [\d.]+|Python \d\.\d+|version \d[\d.]*|\b95%")
HUNDREDTHS = re.compile(r" ?%| points?\b")
UNITS = r"(?:seconds?|minutes?|[KMG]i?B|bytes|points?|nats|times)\b"
RESULT = re.compile(rf"(?<![\w.,])([+-]?\d*\.\d+|\d[\d,]*(?= ?{UNITS}))(?!\.?[\w])|(?<![\w.])(\d+\.\d+)(?=s\b)")
ANY = re.compile(r"(?<![\w.])[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?(?!\w|\.\d)")
INTERVAL = re.compile(r"([+-]?\d*\.\d+) \[([+-]?\d*\.\d+), ([+-]?\d*\.\d+)\]")
DECIDED = re.compile(rf"({INTERVAL.pattern})(?:[,|* ]+(supported|refuted|undecided)\b)?")
WORDS = ("python", "make", "ensemble-transfer")


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list or a row of a table: its first line, its text, and the sources of its numbers."""

    line: int
    text: str
    sources: tuple[str, ...]

    @property
    def told(self) -> str:
        """The text without what states no result."""
        return NO_RESULT.sub(" ", self.text)

    def results(self) -> list[str]:
        """Return the single numbers that state results, each once, in their order; with what says hundredths."""
        text = INTERVAL.sub(" ", self.told)
        found = ((match[1] or match[2], HUNDREDTHS.match(text, match.end())) for match in RESULT.finditer(text))
        return list(dict.fromkeys(number + (unit[0] if unit else "") for number, unit in found))

    def intervals(self) -> list[tuple[str, str]]:
        """Return the estimates with their intervals, each once, in their order, and with the verdict behind it."""
        return list(dict.fromkeys((match[1], match[5] or "") for match in DECIDED.finditer(self.told)))


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page without its code; a comment is a source of the block that it stands before or in."""
    above, kept, start, fenced = tuple[str, ...](), list[str](), 1, False
    for number, line in enumerate([*page.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not (line.startswith("    ") and not kept) and line.strip():
            start = start if kept else number
            kept.append(line)
        elif kept:
            text = "\n".join(kept)
            named = (*above, *(match for part in COMMENT.findall(text) for match in part.split(", ")))
            alone = not COMMENT.sub("", text).strip()
            for offset, entry in () if alone else entries(kept):
                yield Block(start + offset, entry, (*named, *PLACE.findall(entry)))
            above, kept = named if alone else (), []


def entries(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the rows of a table, the items of a list, or a paragraph as a whole, with their distance to the first."""
    begun = [place for place, line in enumerate(lines) if place == 0 or line.startswith(("|", "- "))]
    for place, end in zip(begun, [*begun[1:], len(lines)], strict=True):
        yield place, "\n".join(lines[place:end])


def written(place: str) -> str:
    """Return the text of a file, or of all files of a folder, below the root."""
    path = ROOT / place.replace("../", "")
    files = [path] if path.is_file() else sorted(path.glob("*"))
    return "\n".join(f.read_text(encoding="utf-8") for f in files if f.suffix in (".md", ".csv", ".json", ".yaml"))


@cache
def printed(command: str) -> str:
    """Return what a command prints, run at the root by this Python."""
    words = shlex.split(command)
    words = [sys.executable, *words[1:]] if words[0] == "python" else words
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def holds(text: str, number: str) -> bool:
    """Return whether a text has a number that rounds to the given one; one in hundredths also as a share of one.

    A number without a sign may have either there.
    """
    bare = HUNDREDTHS.sub("", number)
    units = (1,) if bare == number else (1, 100)
    found = (float(other.replace(",", "")) for other in ANY.findall(text))
    seen = found if bare[0] in "+-" else map(abs, found)
    return any(_rounds(value * unit, bare) for value in seen for unit in units)


def holds_interval(text: str, told: str, either_side: bool) -> bool:
    """Return whether a text has an estimate with this interval, rounded; from either side, or as it stands alone."""
    wanted = INTERVAL.findall(told)[0]
    there = [tuple(map(float, found)) for found in INTERVAL.findall(text)]
    turned = [(-x, -high, -low) for x, low, high in there] if either_side else []
    return any(all(map(_rounds, found, wanted)) for found in (*there, *turned))


def _rounds(value: float, number: str) -> bool:
    digits = len(number.partition(".")[2])
    return abs(value - float(number.replace(",", ""))) <= 0.5 * 10**-digits + 1e-9


def wrong(block: Block, run: bool) -> Iterator[str]:
    """Yield what is wrong with the numbers of a block."""
    numbers, intervals, sources = block.results(), block.intervals(), [s for s in block.sources if s != "set"]
    told = [*numbers, *(interval for interval, _ in intervals)]
    if not told or "set" in block.sources:
        return
    commands = [source for source in sources if source.startswith(WORDS)]
    if not sources:
        yield f"{', '.join(told)}: no source"
    elif run or not commands:
        texts = [printed(s) if s in commands else written(s) for s in sources]
        missing = [number for number in numbers if not any(holds(text, number) for text in texts)]
        for interval, verdict in intervals:
            decided = ["\n".join(line for line in text.splitlines() if verdict in line) for text in texts]
            either = interval[0] not in "+-" and not block.text.startswith("|")
            there = any(holds_interval(text, interval, either) for text in decided)
            missing += [] if there else [f"{interval} {verdict}".rstrip()]
        if missing:
            yield f"{', '.join(missing)}: not in {', '.join(sources)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="default: README.md and docs/*.md")
    parser.add_argument(
        "--run", action="store_true", help="run the commands that sources name, and read what they print"
    )
    options = parser.parse_args(arguments)
    found = 0
    for page in options.pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in blocks(page.read_text(encoding="utf-8")):
            for line in wrong(block, options.run):
                found += 1
                print(f"{page}:{block.line}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
