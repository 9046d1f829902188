from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.plots import PLANS, charts, draw, styles
from ensemble_transfer.report.plots.charts import pareto, severities
from ensemble_transfer.report.plots.style import PAPER
from ensemble_transfer.report.record import Record

TEST = "target/test/"


def a_record(strategy="shift", seed=0, shifted=0.0, lineage="shared", **config):
    accuracy = 0.8 + 0.01 * seed + shifted
    metrics = {
        "ensemble/accuracy": accuracy,
        "ensemble/nll": 1 - accuracy,
        "member/accuracy": accuracy - 0.05,
        "calibrated/nll": 0.5,
        "calibration/ece": 0.05,
        "diversity/disagreement": 0.1 + 0.01 * seed,
    }
    for severity in (1, 2):
        metrics |= {f"corruption/mean/{severity}/{name}": 0.5 / severity for name in ("accuracy", "nll", "ece")}
    apart = 1.0 if lineage == "independent" else 0.01
    diagnosed = {
        "source/validation/barrier": apart,
        "source/diversity/weight_distance": 10 * apart,
        "shift/probe_gain": 0.2 - apart / 10,
        "shift/probe_gain_over_random": 0.25 - apart / 10,
    }
    cost = {"steps": 10, "flops": 10**10, "seconds": 1.5}
    return Record(
        "finished",
        strategy,
        seed,
        "digits -> mnist",
        "resnet10t",
        {"size": 3, "lineage": lineage},
        metrics={TEST + name: value for name, value in metrics.items()} | diagnosed,
        cost={"phases": {"full": cost, "tiny": cost}, "total": cost, "marginal": cost},
        curves={
            "reliability": {
                "lower": [0.0, 0.5],
                "upper": [0.5, 1.0],
                "count": [0, 100],
                "confidence": [None, 0.9],
                "accuracy": [None, accuracy],
            },
            "accuracy_rejection": {"rejection": [0.5, 0.0], "accuracy": [1.0, accuracy]},
            "ensemble_size": {"size": [1, 2, 3], "accuracy": [0.7, 0.75, accuracy], "calibrated_nll": [0.7, 0.6, 0.5]},
            "shift_line": {"scale": [0.0, 0.5, 1.0], "loss": [2.0, 1.2, 0.9], "accuracy": [0.3, 0.6, accuracy]},
            "disagreement": [[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.3, 0.0]],
        },
        config={"strategy": {"name": strategy}} | config,
    )


def rows(*records):
    return Comparison.of(records).rows


ROWS = rows(*(a_record(name, seed, d) for name, d in (("full", 0.1), ("shift", 0.0)) for seed in (0, 1)))


def with_strategy(**options):
    record = a_record(lineage="independent", ensemble={"lineage": "independent"})
    record.config["strategy"].update(options)
    return record


LINEAGES = [
    *(a_record(seed=seed) for seed in (0, 1)),
    *(a_record(seed=seed, lineage="independent", ensemble={"lineage": "independent"}) for seed in (0, 1)),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(ROWS, tmp_path_factory.mktemp("figures") / "new")


def test_every_figure_is_there_as_svg_and_png(drawn):
    assert [figure.svg.stem for figure in drawn] == [
        plan.name for plan in PLANS if plan.name not in ("lineage", "frontier")
    ]
    for figure in drawn:
        assert ElementTree.parse(figure.svg).getroot().tag.endswith("svg")
        assert figure.svg.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_lineages_are_compared_where_there_are_two_and_the_shift_is_a_donors(tmp_path):
    def names(records):
        return [figure.svg.stem for figure in draw(rows(*records), tmp_path)]

    assert "lineage" in names(LINEAGES)
    assert "lineage" not in names(LINEAGES[:2])
    random = [with_strategy(direction="random")]
    assert "lineage" not in names([*LINEAGES[:2], *random])
    old = a_record(lineage="independent", ensemble={"lineage": "independent"})
    del old.metrics["source/validation/barrier"]
    assert "lineage" not in names([*LINEAGES[:2], old])


def test_every_run_of_a_lineage_is_a_point_in_each_panel():
    compared = rows(*LINEAGES, with_strategy(align="weights"))
    figure = charts.benefit(compared, styles(compared))
    shown = [[line for line in panel.lines if line.get_marker() not in ("None", "")] for panel in figure.axes]
    assert [len(lines) for lines in shown] == [5, 5, 5, 5]
    assert {(line.get_color(), line.get_marker()) for line in shown[0][:2]}.isdisjoint(
        (line.get_color(), line.get_marker()) for line in shown[0][2:]
    )
    x = [line.get_xdata()[0] for line in shown[0]], [line.get_xdata()[0] for line in shown[2]]
    y = [line.get_ydata()[0] for line in shown[0]], [line.get_ydata()[0] for line in shown[1]]
    assert x == ([0.01, 0.01, 1.0, 1.0, 1.0], [0.1, 0.1, 10.0, 10.0, 10.0])
    assert y[0] == pytest.approx([0.199, 0.199, 0.1, 0.1, 0.1])
    assert y[1] == pytest.approx([0.249, 0.249, 0.15, 0.15, 0.15])
    hollow = [line.get_markerfacecolor() == PAPER for line in shown[0]]
    assert hollow == [False, False, False, False, True]


def test_a_lineage_says_its_fork_and_its_pretrained_ancestor():
    forked = a_record(ensemble={"fork": 0.1}, backbone={"pretrained": True})
    assert charts.lineages(rows(a_record(), forked)) == ["shared", "shared, fork at 10%, pretrained"]


def test_a_figure_says_its_numbers_to_those_who_cannot_see_it(drawn):
    assert "full: accuracy 0.905 ± 0.007, NLL 0.095 ± 0.007, GFLOPs 10.000" in drawn[0].alt


def test_the_same_records_give_the_same_svg(drawn, tmp_path):
    for again, first in zip(draw(ROWS, tmp_path), drawn, strict=True):
        assert again.svg.read_bytes() == first.svg.read_bytes()


def test_what_records_do_not_have_is_not_drawn_and_not_left_from_before(tmp_path):
    (tmp_path / "corruption.svg").write_text("old")
    old = Record("finished", "shift", 0, "digits -> mnist", "resnet10t", {"size": 3})
    assert draw(rows(old), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_rows_without_a_curve_are_left_out_of_its_figure_alone(tmp_path):
    old = a_record("head")
    old.curves.clear()
    found = {figure.svg.stem: figure.alt for figure in draw(rows(a_record(), old), tmp_path)}
    assert "head" in found["compute"]
    assert "head" not in found["reliability"]


def test_labels_are_text_whatever_they_hold(tmp_path):
    odd = a_record("shift", dataset_="$\\frac{", note="<b>" + 200 * "x"), a_record("shift", dataset_="a_b$")
    for figure in draw(rows(*odd), tmp_path):
        ElementTree.parse(figure.svg)


def test_a_strategy_looks_the_same_in_any_company():
    alone = styles(rows(a_record("shift")))["shift"]
    among = styles(rows(*map(a_record, ("full", "matched", "novel", "shift"))))
    assert among["shift"] == alone
    assert among["novel"] == styles(rows(a_record("novel")))["novel"]


def test_strategies_differ_in_colour_and_marker_or_at_least_in_the_pair():
    names = ["full", "matched", "shift", "tiny", "head"]
    look = styles(rows(*map(a_record, [*names, *"abcdefghij"])))
    assert len({look[name].colour for name in names}) == len({look[name].marker for name in names}) == 5
    assert len({(style.colour, style.marker) for style in look.values()}) == 15


def test_rows_of_a_strategy_share_its_colour_and_differ_in_line_and_filling():
    first, second = styles(rows(a_record(steps=20), a_record(steps=40))).values()
    assert (first.colour, first.marker) == (second.colour, second.marker)
    assert first.line != second.line
    assert first.filled != second.filled


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_point_beats(seed):
    points = [tuple(point) for point in np.random.default_rng(seed).integers(0, 6, (12, 2)).tolist()]
    beaten = {(x, y) for x, y in points if any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points)}
    assert {points[index] for index in pareto(points)} == set(points) - beaten


def test_severities_are_those_that_all_seeds_have():
    fewer = a_record(seed=1)
    for name in ("accuracy", "nll", "ece"):
        del fewer.metrics[f"target/test/corruption/mean/2/{name}"]
    [row] = rows(a_record(), fewer)
    assert severities(row) == [1]


def test_members_are_counted_from_one_in_the_matrices():
    panel = charts.matrices(ROWS, styles(ROWS)).axes[0]
    assert list(panel.get_xticks()) == [1, 2, 3]
    left, right, bottom, top = panel.images[0].get_extent()
    assert (left, right, top, bottom) == (0.5, 3.5, 0.5, 3.5)  # the first member is at the top left


@pytest.mark.parametrize(
    ("low", "high"), [(0.88, 1.42), (0.95, 1.05), (3.9, 780), (0.3, 0.9), (1, 9), (2, 30), (1, 10_000), (7e3, 2e9)]
)
def test_a_logarithmic_axis_has_enough_ticks_to_read(low, high):
    panel = Figure().subplots()
    panel.set(xscale="log", xlim=(low, high))
    charts._plain_logarithmic(panel.xaxis)
    shown = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert 3 <= len(shown) <= 8
    labels = [panel.xaxis.get_major_formatter()(tick) for tick in shown]
    assert len(set(labels)) == len(shown)
