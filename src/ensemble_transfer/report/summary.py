"""The summary of a run: all of it as ``summary.md``, and its first screen for the terminal."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from ensemble_transfer.layout import ENSEMBLE, ERRORS, PREDICTIONS, RECORD, SHIFT, SUMMARY
from ensemble_transfer.report.explanations import choice_text, next_step, shift_effect, source_warning, taken, warnings
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import costs_differ, networks
from ensemble_transfer.report.tables import markdown as table


def write(record: Record, folder: Path) -> None:
    """Write ``summary.md`` into a run's folder."""
    (folder / SUMMARY).write_text(markdown(record, folder), encoding="utf-8")


def show(record: Record, folder: Path, whole: bool = False, console: Console | None = None) -> None:
    """Print the first screen of a run's summary, or the whole of it."""
    console, text = console or Console(), markdown(record, folder) if whole else screen(record, folder)
    for place, part in enumerate(re.split(r"^ {4}(\S.*)$", text, flags=re.MULTILINE)):
        if place % 2:  # a command or a path, which stays one line, to be copied
            console.print(f"\n{part}\n", soft_wrap=True, markup=False, highlight=False)
        else:
            console.print(Markdown(part))


def screen(record: Record, folder: Path) -> str:
    """Return what one screen has room for: the result, one table, warnings, the cost, and what to do next."""
    prefix, _ = _splits(record.metrics)[0]
    low, high = _cells(record.metrics, f"{prefix}/member", ("accuracy_min", "accuracy_max"))
    names = {"the ensemble": "ensemble", f"a member ({low} to {high})": "member"}
    rows = [[name, *_measured(record.metrics, prefix, part)] for name, part in names.items()]
    parts = [
        f"**{record.strategy}, {record.dataset}, seed {record.seed}**: {result(record)}",
        table((prefix.replace("target/", "on "), *_MEASURED), rows),
        *_added(record),
        taken(record),
        *warnings(record),
        _cost_line(record),
        *next_step(record, folder),
        "The whole summary, which `verbose=true` prints:",
        f"    {folder / SUMMARY}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(record: Record, folder: Path) -> str:
    """Return the summary of a finished run: the result and what to do next first, explanations and files last."""
    size, lineage = record.ensemble["size"], record.ensemble["lineage"]
    members = f"{size} member{'' if size == 1 else 's'}"
    copies = "a copy" if size == 1 else "copies"
    members += f", {copies} of the pretrained network" if lineage == "copies" else f" of {lineage} lineage"
    parts = [
        f"# {record.strategy}: {record.dataset}",
        f"{members}, {record.backbone}, seed {record.seed}. `{record.command}`",
        f"**Result**: {result(record)}",
        source_warning(record),
        *next_step(record, folder),
        _quality(record.metrics),
        _diversity(record.metrics),
        *_elsewhere(record.metrics),
        *record.notes,
        choice_text(record),
        *_added(record),
        _cost(record),
        shift_effect(record),
        _files(folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_MEASURED = ("accuracy", "NLL", "Brier", "ECE", "calibrated NLL")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table; a dash for what is undefined."""
    return "-" if value is None or value != value else f"{round(value, digits) + 0.0:.{digits}f}"


def _splits(metrics: Mapping[str, float | None]) -> tuple[tuple[str, str], ...]:
    """Return the start of the keys, and the name, of what was evaluated: the target, and the source task, if any."""
    tested = "target/test/ensemble/accuracy" in metrics
    target = ("target/test", "target") if tested else ("target/validation", "target's validation split")
    source = (("source/test", "source, before"),) if "source/test/ensemble/accuracy" in metrics else ()
    return target, *source


def result(record: Record) -> str:
    """Return the result in one line: quality, what it cost, and how many networks a prediction runs."""
    prefix, task = _splits(record.metrics)[0]
    accuracy, nll = (record.metrics.get(f"{prefix}/{name}") for name in ("ensemble/accuracy", "calibrated/nll"))
    where = "test" if task == "target" else "validation"
    low, high = _cells(record.metrics, f"{prefix}/ensemble", ("accuracy_low", "accuracy_high"))
    other = "" if low == "-" else f" (on other images {low} to {high}, with 95% confidence)"
    text = f"accuracy {number(accuracy)}{other}, calibrated NLL {number(nll)} on {where}"
    total, count = record.cost["total"], networks(record)
    spent, by_time = total.get("fine_tunings"), total.get("fine_tunings_by_time")
    if spent:
        text += f", for {spent:.2f} fine-tunings"
        if by_time is not None and costs_differ(spent, by_time):
            text += f" by FLOPs, but {by_time:.2f} by time"
    if not count:
        return f"{text}."
    heads = f" with {record.ensemble['size']} heads" if record.ensemble["size"] > count else ""
    return f"{text}. A prediction runs {count} network{'' if count == 1 else 's'}{heads}."


def _cells(metrics: Mapping[str, float | None], prefix: str, names: Iterable[str]) -> list[str]:
    return [number(metrics.get(f"{prefix}/{name}")) for name in names]


def _quality(metrics: Mapping[str, float | None]) -> str:
    rows = []
    for prefix, task in _splits(metrics):
        low, high = _cells(metrics, prefix, ("member/accuracy_min", "member/accuracy_max"))
        parts = {f"ensemble on {task}": "ensemble", f"its members, mean (accuracy {low} to {high})": "member"}
        if f"{prefix}/soup/accuracy" in metrics:
            parts["its soup: one network of the members' mean weights"] = "soup"
        rows += [[name, *_measured(metrics, prefix, part)] for name, part in parts.items()]
    tested = _splits(metrics)[0][0] == "target/test"
    text = table(("test split" if tested else "evaluated", *_MEASURED), rows)
    soup, worst = (metrics.get(f"target/test/{name}") for name in ("soup/accuracy", "member/accuracy_min"))
    if soup is None or worst is None or soup >= worst:
        return text
    return f"{text}\n\nThe soup is worse than every member: the members do not share a basin. Use the ensemble."


def _measured(metrics: Mapping[str, float | None], prefix: str, part: str) -> list[str]:
    """Return the numbers of a line of a table of quality, :data:`_MEASURED`."""
    last = ("calibration/ece", "calibrated/nll") if part == "ensemble" else (f"{part}/ece", "-")
    return _cells(metrics, prefix, (f"{part}/accuracy", f"{part}/nll", f"{part}/brier", *last))


def _diversity(metrics: Mapping[str, float | None]) -> str:
    names = ("disagreement", "disagreement_normalised", "mutual_information")
    rows = [[task, *_cells(metrics, f"{prefix}/diversity", names)] for prefix, task in _splits(metrics)]
    return table(("diversity", "disagreement", "/ (1 - member accuracy)", "mutual information"), rows)


def _elsewhere(metrics: Mapping[str, float | None]) -> list[str]:
    """Return tables on out-of-distribution and corrupted images, where there are any."""
    keys = [key.split("/")[2:] for key in metrics if key.startswith("target/test/")]
    scores = [f"{score}/auroc" for score in ("max_probability", "entropy", "mutual_information")]
    outside = dict.fromkeys(key[1] for key in keys if key[0] == "ood")
    found = [[name, *_cells(metrics, f"target/test/ood/{name}", scores)] for name in outside]
    mean = "target/test/corruption/mean"
    severities = dict.fromkeys(key[2] for key in keys if key[:2] == ["corruption", "mean"])
    worse = [[f"severity {s}", *_cells(metrics, f"{mean}/{s}", ("accuracy", "nll", "ece"))] for s in severities]
    tables = {
        ("out of distribution: AUROC of", "max probability", "entropy", "mutual information"): found,
        ("corrupted test images, mean", "accuracy", "NLL", "ECE"): worse,
    }
    return [table(head, rows) for head, rows in tables.items() if rows]


def _added(record: Record) -> list[str]:
    """Return what members that an extension has added are worth and cost, and fully fine-tuned ones where there are."""
    added, full = record.cost.get("added"), record.cost.get("added_full")
    if added is None:
        return []
    own = [a for a in record.curves.get("member_accuracy", [])[-added["members"] :] if a is not None]
    mean = record.metrics.get("extend/accuracy", sum(own) / len(own) if own else None)
    parts = [(f"the {added['members']} added members", mean, added["total"])]
    if full:
        parts.append(("the same, fully fine-tuned", record.metrics.get("extend/full_accuracy"), full["total"]))
    rows = [
        [name, number(a), f"{cost['flops'] / 1e9:,.1f}", number(cost.get("fine_tunings"), 2)] for name, a, cost in parts
    ]
    where = "test" if record.tested else "validation"
    text = table(("added", f"accuracy on {where}, mean", "GFLOPs", "fine-tunings"), rows)
    if not full:
        return [text, "`--against-full` fine-tunes them fully as well, to compare."]
    gain, ratio = (record.metrics[f"extend/{name}"] for name in ("accuracy_gain_over_full", "flops_ratio_to_full"))
    line = f"Against full fine-tuning: {gain:+.3f} in accuracy for {ratio:.0%} of the FLOPs, by one seed."
    return [text, line]


def _cost_line(record: Record) -> str:
    """Return the cost in a line: in all, by phase, and of one more member."""
    phases, total, one_more = record.cost["phases"], record.cost["total"], record.cost["marginal"]
    unit, scale = ("fine_tunings", 1.0) if total.get("fine_tunings") else ("flops", 1e9)
    amounts = {name: number((cost.get(unit) or 0.0) / scale, 2) for name, cost in phases.items()}
    by_phase = ", ".join(f"{name} {amount}" for name, amount in amounts.items())
    text = f"{number(total[unit] / scale, 2)} {'fine-tunings' if unit == 'fine_tunings' else 'GFLOPs'}"
    text = f"**Cost**: {text} in {total['seconds']:,.0f} s ({by_phase})"
    more = number(one_more[unit] / scale, 2) if one_more and one_more.get(unit) is not None else ""
    reused = {(entry["phase"], entry["member"]) for entry in record.reused_fits}
    text += f"; one more member {more}" if more else ""
    return text + (f"; {len(reused)} fits from the store." if reused else ".")


def _cost(record: Record) -> str:
    parts = record.cost["phases"] | {"**total**": record.cost["total"]}
    parts |= {"one more member": record.cost["marginal"]} if record.cost["marginal"] else {}
    parts |= {"source ensemble (not counted)": record.cost["source"]} if "source" in record.cost else {}
    rows = []
    for name, cost in parts.items():
        spent = (number(cost.get(key), 2) for key in ("fine_tunings", "fine_tunings_by_time"))
        counts = (f"{round(cost['steps']):,}", f"{cost['flops'] / 1e9:,.1f}")
        rows.append([name, *counts, *spent, f"{cost['seconds']:,.1f}", f"{cost['peak_memory_bytes'] / 1e6:,.0f}"])
    text = table(("cost", "steps", "GFLOPs", "fine-tunings", "by time", "seconds", "peak MB"), rows)
    reused = {(entry["phase"], entry["member"]) for entry in record.reused_fits}
    if not reused:
        return text
    phases = ", ".join(dict.fromkeys(entry["phase"] for entry in record.reused_fits))
    return f"{text}\n\n{len(reused)} fits came from the store ({phases}); their cost is that of the real fit."


def _files(folder: Path) -> str:
    about = {
        RECORD: "all of this and more, for programs",
        PREDICTIONS: "predictions on every image",
        ENSEMBLE: "the transferred ensemble",
        ERRORS: "the surest errors as pictures",
        SHIFT: "the shift vector",
    }
    names = [f"`{name}` ({what})" for name, what in about.items() if (folder / name).exists()]
    return f"Written to `{folder}`: {', '.join(names)}, `{SUMMARY}` (this text)."
