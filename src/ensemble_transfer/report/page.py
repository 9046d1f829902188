"""Write a comparison as one self-contained HTML file: what was found first, how it was run last.

The template escapes every text from records, and the page's content security policy forbids every request.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from ensemble_transfer.report.comparison import MORE, Comparison, groups_of
from ensemble_transfer.report.confusion import best_of_each_strategy, confusion_tables
from ensemble_transfer.report.findings import findings
from ensemble_transfer.report.html import rendered
from ensemble_transfer.report.plots import Drawn
from ensemble_transfer.report.plots.style import GRID, INK, PAPER, styles
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import Row

FILE_NAME = "index.html"

FILTERED = 8
"""Rows from which a page offers filters by pair and by budget."""


def write(
    comparison: Comparison,
    figures: Iterable[Drawn],
    folder: Path,
    pairs: Mapping[str, str] | None = None,
    errors: Mapping[int, Path] | None = None,
) -> Path:
    """Write ``index.html`` into the folder of a comparison, and return its path; see :func:`html`.

    Args:
        comparison: The comparison.
        figures: Its figures.
        folder: Its folder.
        pairs: Pages of the pairs of tasks, where there are several.
        errors: Pages with the errors of runs as pictures, by the ``id`` of the run's record.
    """
    links = {run: quote(Path(os.path.relpath(page, folder)).as_posix()) for run, page in (errors or {}).items()}
    path = folder / FILE_NAME
    path.write_text(html(comparison, figures, pairs, links), encoding="utf-8")
    return path


def html(
    comparison: Comparison,
    figures: Iterable[Drawn],
    pairs: Mapping[str, str] | None = None,
    errors: Mapping[int, str] | None = None,
) -> str:
    """Return the page of a comparison with its figures, and links to pages of pairs of tasks and of errors."""
    runs = [run for row in comparison.rows for run in row.runs]
    known = [*runs, *comparison.failed, *comparison.untested]
    drawn = [_figure(figure, index) for index, figure in enumerate(figures)]
    return rendered(
        "page.html",
        title=f"Ensembles transferred: {_joined(run.dataset for run in known)}",
        nothing=comparison.nothing,
        findings=findings(comparison),
        failures=comparison.failures(),
        leading=[figure for figure in drawn if figure["narrow"]],
        figures=[figure for figure in drawn if not figure["narrow"]],
        tables=comparison.tables,
        more=MORE,
        confusions=[] if pairs else confusion_tables(best_of_each_strategy(comparison.rows)),
        errors=_errors(comparison.rows, errors or {}),
        filters=_filters(comparison.rows),
        colours={label: style.colour for label, style in styles(comparison.rows).items()},
        notes=comparison.notes,
        pairs=pairs or {},
        rows=comparison.rows,
        facts=_facts(runs),
        json=partial(json.dumps, indent=2, ensure_ascii=False),
    )


def _errors(rows: Sequence[Row], links: Mapping[int, str]) -> dict[str, dict[int, str]]:
    """Return the links to the errors of each row's runs, by seed."""
    found = {row.label: {run.seed: links[id(run)] for run in row.runs if id(run) in links} for row in rows}
    return {label: own for label, own in found.items() if own}


def _filters(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the values to filter rows by; only where there are many rows, and several values."""
    budgets = {row.budget: groups_of(row)["budget"] for row in rows}
    values = {
        "pair": list(dict.fromkeys(groups_of(row)["pair"] for row in rows)),
        "budget": [budgets[budget] for budget in sorted(budgets, key=lambda budget: (budget is None, budget or 0.0))],
    }
    return {name: options for name, options in values.items() if len(rows) >= FILTERED and len(options) > 1}


def _facts(runs: Sequence[Record]) -> dict[str, str]:
    """Return what was run, how often, and on which hardware."""
    environments = [run.environment for run in runs]
    sizes = [(run.config.get("ensemble", {}).get("size", "?"), run.ensemble.get("lineage", "unknown")) for run in runs]
    facts = {
        "backbone": _joined(run.backbone for run in runs),
        "ensemble": _joined(f"{size} members, {lineage} lineage" for size, lineage in sizes),  # the source's size
        "runs": f"{len(runs)} finished",
        "seeds": _joined(str(seed) for seed in sorted({run.seed for run in runs})),
        "hardware": _joined(
            ", ".join(f"{name} {e[name]}" for name in ("device", "processor", "cores", "threads") if name in e)
            for e in environments
        ),
        "platform": _joined(str(e["platform"]) for e in environments if "platform" in e),
        "versions": _joined(
            (", ".join(f"{k} {v}" for k, v in e["versions"].items()) for e in environments if "versions" in e), "; "
        ),
        "code": _joined(str(e["git_commit"]) for e in environments if e.get("git_commit")),
        "computed": _joined(sorted({str(e["created"])[:10] for e in environments if "created" in e})),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _figure(drawn: Drawn, index: int) -> dict[str, Any]:
    svg, width = inline(drawn.svg.read_text(encoding="utf-8"), f"f{index}-", drawn.alt)
    narrow = ""
    if drawn.narrow is not None:
        narrow, _ = inline(drawn.narrow.read_text(encoding="utf-8"), f"n{index}-", drawn.alt)
    return {
        "title": drawn.title,
        "caption": drawn.caption,
        "stem": drawn.svg.stem,
        "svg": Markup(svg),
        "points": round(width),
        "narrow": Markup(narrow),
    }


def inline(svg: str, prefix: str, alt: str) -> tuple[str, float]:
    """Return a matplotlib SVG to embed in a page, and its natural width in points.

    Ids get a prefix, since a page holds many figures. Colours of ink, grid and paper follow the page's theme.
    """
    opening, body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S).split(
        ">", 1
    )
    [view] = re.findall(r'viewBox="([^"]+)"', opening)
    body = re.sub(r'(<g|<image\b[^>]*?) id="[^"]*"', r"\1", body)  # duplicates that nothing refers to
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", body)
    for colour, variable in ((INK, "currentColor"), (GRID, "var(--grid)"), (PAPER, "var(--paper)")):
        body = body.replace(colour, variable)
    return f'<svg viewBox="{view}" role="img" aria-label="{escape(alt)}">{body}', float(view.split()[2])


def _joined(texts: Iterable[str], separator: str = ", ") -> str:
    return separator.join(dict.fromkeys(texts))
