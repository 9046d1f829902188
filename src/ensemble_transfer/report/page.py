"""Write a comparison as one self-contained HTML file.

Text from records is escaped, and the page's content security policy forbids every request.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.frontier import FRONTIER_NOTE, frontier_table
from ensemble_transfer.report.plots import Drawn
from ensemble_transfer.report.plots.style import GRID, INK, PAPER, Style, styles
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import COLUMNS, DIFFERENCES, Column, Row

FILE_NAME = "index.html"
EMPTY = "<p>Nothing to draw.</p>"


def write(
    comparison: Comparison, figures: Iterable[Drawn], folder: Path, pairs: Mapping[str, str] | None = None
) -> Path:
    """Write ``index.html`` into the folder of a comparison; see :func:`html`.

    Returns:
        Path of the page.
    """
    path = folder / FILE_NAME
    path.write_text(html(comparison, figures, pairs), encoding="utf-8")
    return path


def html(comparison: Comparison, figures: Iterable[Drawn], pairs: Mapping[str, str] | None = None) -> str:
    """Return the page.

    Args:
        comparison: Comparison to show.
        figures: Figures, already on disk.
        pairs: Links to the pages of single pairs of tasks, by name, if there are several pairs.
    """
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    runs = [run for row in comparison.rows for run in row.runs]
    tasks = _joined(run.dataset for run in [*runs, *comparison.failed])
    return template.substitute(
        title=escape(f"Ensembles transferred: {tasks}"),
        facts=_facts(runs),
        failed=_failed(comparison),
        results=_results(comparison),
        differences=_differences(comparison),
        frontier=_frontier(comparison),
        notes="".join(f"<li>{escape(note)}</li>" for note in comparison.notes),
        figures="".join(_figure(drawn, index) for index, drawn in enumerate(figures)) or ("" if pairs else EMPTY),
        pairs=_links(pairs or {}),
        runs="".join(_runs(row, index) for index, row in enumerate(comparison.rows)) or "<p>No run has finished.</p>",
    )


def _facts(runs: Sequence[Record]) -> str:
    """List what was run, how often, and on which hardware."""
    environments = [run.environment for run in runs]
    facts = {
        "backbone": _joined(run.backbone for run in runs),
        "members before the transfer": _joined(
            f"{run.ensemble.get('size', '?')} members, {run.ensemble.get('lineage', 'unknown')} lineage" for run in runs
        ),
        "runs": f"{len(runs)} finished",
        "seeds": _joined(str(seed) for seed in sorted({run.seed for run in runs})),
        "hardware": _joined(
            ", ".join(f"{name} {e[name]}" for name in ("device", "processor", "cores", "threads") if name in e)
            for e in environments
        ),
        "platform": _joined(str(e["platform"]) for e in environments if "platform" in e),
        "versions": "; ".join(
            dict.fromkeys(
                ", ".join(f"{k} {v}" for k, v in e["versions"].items()) for e in environments if "versions" in e
            )
        ),
        "code": _joined(str(e["git_commit"]) for e in environments if e.get("git_commit")),
        "computed": _joined(sorted({str(e["created"])[:10] for e in environments if "created" in e})),
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact)
    return f"<dl>{items}</dl>"


def _failed(comparison: Comparison) -> str:
    lines = comparison.failures()
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h2 id="failed">Failed or left out</h2><ul class="failed">{items}</ul>'


def _results(comparison: Comparison) -> str:
    look = styles(comparison.rows)
    heads = [
        _head("strategy", "ascending", text=True),
        *map(_column_head, comparison.columns),
        _head("n", "descending"),
    ]
    body = []
    for index, row in enumerate(comparison.rows):
        cells = [_cell(row, column, comparison.is_best(row, column)) for column in comparison.columns]
        label = f'<a href="#row-{index}">{_swatch(look[row.label])}{escape(row.label)}</a>'
        seeds = f"<small>{'seed' if len(row.seeds) == 1 else 'seeds'} {', '.join(map(str, row.seeds))}</small>"
        body.append(
            [_row_head(row.label, label), *cells, f'<td data-value="{len(row.seeds)}">{len(row.seeds)}{seeds}</td>']
        )
    return _table(heads, body, "Results") if body else "<p>No run has finished.</p>"


def _frontier(comparison: Comparison) -> str:
    """Return the table of strategies at their budgets, each against the best rival; empty without budgets."""
    if comparison.frontier is None:
        return ""
    head, lines = frontier_table(comparison.frontier)
    heads = [_head(name, "ascending", text=name == "strategy") for name in head]
    body = [
        [f'<td data-value="{escape(budget)}">{escape(budget)}</td>', _row_head(strategy, escape(strategy))]
        + [f"<td>{_two_lines(text, ' [', '[')}</td>" for text in texts]
        for budget, strategy, *texts in lines
    ]
    title = "What a budget buys, against the best rival"
    return f"<h3>{title}</h3>{_table(heads, body, title)}<p class='notes'>{escape(FRONTIER_NOTE)}</p>"


def _differences(comparison: Comparison) -> str:
    heads = [_head("strategy", "ascending", text=True), "<th>baseline</th>", *map(_column_head, DIFFERENCES)]
    body = []
    labels = {row.label: row for row in comparison.rows}
    for label, baseline, *texts, paired in comparison.differences():
        differences = [comparison.difference(labels[label], column) for column in DIFFERENCES]
        cells = [
            f'<td data-value="{"" if d is None else d.mean}">{_two_lines(text, " [", "[")}</td>'
            for d, text in zip(differences, texts, strict=True)
        ]
        counted = f'<td data-value="{paired}">{paired}</td>'
        body.append([_row_head(label, escape(label)), f"<td>{escape(baseline)}</td>", *cells, counted])
    if not body:
        return ""
    title = "Differences to the baseline, paired by seed, with 95% intervals"
    return f"<h2>{title}</h2>" + _table([*heads, _head("seeds in both", "descending")], body, title)


def _table(heads: Iterable[str], body: Iterable[Sequence[str]], name: str) -> str:
    rows = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{escape(name)}"><table class="sortable">'
        f'<caption class="hidden">{escape(name)}; the headings sort</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _head(name: str, first: str, text: bool = False) -> str:
    kind = ' data-text="1"' if text else ""
    button = f'<button type="button">{escape(name)}</button>'
    return f'<th scope="col" aria-sort="none" data-first="{first}"{kind}>{button}</th>'


def _column_head(column: Column) -> str:
    """Return a heading that first sorts the better values to the top: ascending for losses and costs."""
    higher = column.higher_is_better or (column.higher_is_better is None and column in COLUMNS[:11])
    return _head(column.name, "descending" if higher else "ascending")


def _row_head(value: str, content: str) -> str:
    room = ' class="long"' if len(value) > 20 else ""
    return f'<th scope="row" data-value="{escape(value)}"{room}>{content}</th>'


def _cell(row: Row, column: Column, best: bool) -> str:
    value = repr(row.values[column.name].mean) if column.name in row.numbers else ""
    mark = ' class="best"' if best else ""
    said = '<span class="hidden"> (significantly best)</span>' if best else ""
    return f'<td data-value="{value}"{mark}>{_two_lines(row.text(column), " ± ", "± ")}{said}</td>'


def _two_lines(text: str, separator: str, opening: str) -> str:
    first, found, rest = text.partition(separator)
    return escape(first) + (f"<small>{opening}{escape(rest)}</small>" if found else "")


def _swatch(style: Style) -> str:
    return f'<span class="swatch" style="background: {style.colour}"></span>'


def _figure(drawn: Drawn, index: int) -> str:
    svg, width = inline(drawn.svg.read_text(encoding="utf-8"), f"f{index}-", drawn.alt)
    links = ", ".join(f'<a href="figures/{drawn.svg.stem}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png"))
    return (
        f'<figure style="--points: {width:.0f}"><h3>{escape(drawn.title)}</h3>{svg}'
        f"<figcaption>{escape(drawn.caption)} {links}</figcaption></figure>"
    )


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


def _links(pairs: Mapping[str, str]) -> str:
    if not pairs:
        return ""
    items = "".join(f'<li><a href="{escape(address)}">{escape(pair)}</a></li>' for pair, address in pairs.items())
    return f"<p>Each pair of tasks has its own page with figures:</p><ul>{items}</ul>"


def _runs(row: Row, index: int) -> str:
    told = "".join(map(_run, row.runs))
    count = f"{len(row.runs)} run{'s' if len(row.runs) > 1 else ''}"
    return f'<details id="row-{index}"><summary><b>{escape(row.label)}</b>, {count}</summary>{told}</details>'


def _run(run: Record) -> str:
    config = escape(json.dumps(run.config, indent=2, ensure_ascii=False))
    commit = run.environment.get("git_commit")
    where = f", code {escape(str(commit))}" if commit else ""
    reused = f", {len(run.reused_fits)} fits from the store" if run.reused_fits else ""
    return (
        f"<p>Seed {run.seed}{where}{reused}:</p><pre>{escape(run.command or '(the record has no command)')}</pre>"
        f"<details><summary>resolved configuration</summary><pre>{config}</pre></details>"
    )


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))
