from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import records
from matplotlib.figure import Figure

from ensemble_transfer.report import page, plots
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.plots import PLANS, charts, compute, draw, styles
from ensemble_transfer.report.plots import style as style_module
from ensemble_transfer.report.plots.style import INK, strategies
from ensemble_transfer.report.reference import references
from ensemble_transfer.report.rows import NAMED

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
    cost = {"steps": 10, "flops": 10**10, "seconds": 1.5, "fine_tunings": 1.5, "fine_tunings_by_time": 1.25}
    return records.a_record(
        strategy,
        seed,
        ensemble={"size": 3, "lineage": lineage},
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
            "reliability_calibrated": {"count": [10, 90], "confidence": [0.4, 0.9], "accuracy": [0.5, accuracy]},
            "ensemble_size": {"size": [1, 2, 3], "accuracy": [0.7, 0.75, accuracy], "calibrated_nll": [0.7, 0.6, 0.5]},
            "shift_line": {"scale": [0.0, 0.5, 1.0], "loss": [2.0, 1.2, 0.9], "accuracy": [0.3, 0.6, accuracy]},
            "learning": {
                "full": {"step": [0.0, 4.0], "loss": [2.0, 1.0], "rate": [0.1, 0.01]},
                "tiny": {"step": [0.0, 2.0], "loss": [1.5, 0.5], "rate": [0.02, 0.01]},
            },
        },
        config={"strategy": {"name": strategy}} | config,
    )


def rows(*runs):
    return Comparison.of(runs).rows


ROWS = rows(*(a_record(name, seed, d) for name, d in (("full", 0.1), ("shift", 0.0)) for seed in (0, 1)))


def independent(seed=0):
    return a_record(seed=seed, lineage="independent", ensemble={"lineage": "independent"})


LINEAGES = [*(a_record(seed=seed) for seed in (0, 1)), *map(independent, (0, 1))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(ROWS, tmp_path_factory.mktemp("figures") / "new")


def test_every_figure_is_there_as_svg_and_png(drawn):
    assert [figure.svg.stem for figure in drawn] == ["compute", *(p.name for p in PLANS if p.name != "lineage")]
    for figure in drawn:
        assert ElementTree.parse(figure.svg).getroot().tag.endswith("svg")
        assert figure.svg.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_lineages_are_compared_where_there_are_two_and_the_shift_is_a_donors():
    [plan] = [plan for plan in PLANS if plan.name == "lineage"]

    def drawn(*records):
        return plan.enough([row for row in rows(*records) if plan.able(row)])

    assert drawn(*LINEAGES)
    assert not drawn(*LINEAGES[:2])
    random, old = independent(), independent()
    random.config["strategy"]["direction"] = "random"
    del old.metrics["source/validation/barrier"]
    assert not drawn(*LINEAGES[:2], random, old)


@pytest.fixture
def few_plans(monkeypatch):
    """Draw these figures alone, beside that of the compute."""
    names = ("ensemble_size", "reliability")
    monkeypatch.setattr(plots, "PLANS", [plan for plan in PLANS if plan.name in names])


def test_every_run_of_a_lineage_is_a_point_in_each_panel():
    compared = rows(*LINEAGES)
    figure = charts.benefit(compared, styles(compared))
    shown = [[line for line in panel.lines if line.get_marker() not in ("None", "")] for panel in figure.axes]
    assert [len(lines) for lines in shown] == [4, 4, 4, 4]
    assert {(line.get_color(), line.get_marker()) for line in shown[0][:2]}.isdisjoint(
        (line.get_color(), line.get_marker()) for line in shown[0][2:]
    )
    x = [line.get_xdata()[0] for line in shown[0]], [line.get_xdata()[0] for line in shown[2]]
    y = [line.get_ydata()[0] for line in shown[0]], [line.get_ydata()[0] for line in shown[1]]
    assert x == ([0.01, 0.01, 1.0, 1.0], [0.1, 0.1, 10.0, 10.0])
    assert y[0] == pytest.approx([0.199, 0.199, 0.1, 0.1])
    assert y[1] == pytest.approx([0.249, 0.249, 0.15, 0.15])


def test_a_lineage_says_its_fork_and_its_pretrained_ancestor():
    forked = a_record(ensemble={"fork": 0.1}, backbone={"pretrained": True})
    assert charts.lineages(rows(a_record(), forked)) == ["shared", "shared, fork at 10%, pretrained"]


@pytest.mark.usefixtures("few_plans")
def test_the_same_records_give_the_same_svg(drawn, tmp_path):
    first = {figure.svg.name: figure.svg.read_bytes() for figure in drawn}
    again = draw(ROWS, tmp_path)
    assert len(again) == 3
    assert all(figure.svg.read_bytes() == first[figure.svg.name] for figure in again)


def test_what_records_do_not_have_is_not_drawn_and_not_left_from_before(tmp_path):
    (tmp_path / "corruption.svg").write_text("old")
    assert draw(rows(records.a_record()), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_looks_the_same_in_any_company_and_different_from_others():
    names = ["full", "few", "shift", "tiny", "head"]
    look = styles(rows(*map(a_record, [*names, *"abcdefghij"])))
    assert len({look[name].colour for name in names}) == len({look[name].marker for name in names}) == 5
    assert len({(style.colour, style.marker) for style in look.values()}) == 15
    assert [styles(rows(a_record(name)))[name] for name in ("shift", "a")] == [look["shift"], look["a"]]


def at_cost(strategy, cost, shifted=0.0):
    records = [a_record(strategy, seed, shifted + 0.01 * seed * (strategy == "shift")) for seed in (0, 1)]
    for record in records:
        record.cost["total"]["fine_tunings"] = cost
        record.metrics["target/test/calibrated/nll"] -= shifted
    return records


def computed(*records):
    found = rows(*records)
    return compute.compute(found, styles(found), references(found)).axes


def test_nearly_equal_costs_do_not_look_far_apart_and_stand_side_by_side():
    for axes in computed(*at_cost("full", 8.0), *at_cost("shift", 8.02, 0.01)):
        low, high = axes.get_xlim()
        assert high / low >= compute.LEAST - 1e-9
        near, far = axes.get_ylim()
        assert far - near >= compute.LEAST_HEIGHT - 1e-9
    low, high = 1.0, 10.0
    spots = compute.dodged([2.0, 8.0, 2.01, 2.02], low, high)
    assert spots[1] == 8.0
    assert 1.05 < spots[2] / spots[0] < spots[3] / spots[0]
    assert spots[3] / spots[0] <= 10**compute.WIDEST + 1e-9
    first, *_, last = compute.dodged([1.0] * 7, 0.01, 4.0)
    assert last / first == pytest.approx(1.2)  # on a long axis too, a mark is not far from its cost


def test_a_row_that_is_worse_at_an_equal_cost_is_not_ringed():
    def ringed(axes):
        [ring] = [line for line in axes.lines if line.get_markersize() == 11]
        return len(ring.get_xdata())

    cheaper_by_a_hair = [*at_cost("full", 8.0), *at_cost("shift", 7.98, -0.05)]
    assert [ringed(axes) for axes in computed(*cheaper_by_a_hair)] == [1, 1]
    assert [ringed(axes) for axes in computed(*at_cost("full", 8.0), *at_cost("shift", 7.0, -0.05))] == [2, 2]


def test_bars_are_the_intervals_of_the_differences():
    comparison = Comparison.of([*at_cost("full", 8.0), *at_cost("shift", 2.0, 0.02)])
    difference = comparison.difference(comparison.rows[1], NAMED["accuracy"])
    axes = computed(*at_cost("full", 8.0), *at_cost("shift", 2.0, 0.02))[1]
    [(low, high)] = [
        (segment[0][1], segment[1][1])
        for bars in axes.collections
        for segment in bars.get_segments()
        if segment[0][1] != segment[1][1]
    ]
    assert (low, high) == pytest.approx((difference.low, difference.high))


def test_a_mark_that_is_far_off_is_at_the_edge_with_its_number():
    close = [r for name in ("shift", "tiny", "star") for r in at_cost(name, 2.0, 0.01)]
    axes = computed(*at_cost("full", 8.0), *close, *at_cost("head", 0.1, -0.6))[1]
    assert [text.get_text() for text in axes.texts] == ["-0.60"]
    assert axes.get_ylim()[0] > -0.3


def test_numbers_of_marks_that_are_far_off_and_close_to_each_other_do_not_overlap():
    close = [r for name in ("shift", "tiny", "star", "turns", "auto") for r in at_cost(name, 2.0, 0.01)]
    far = [("head", 0.1, -0.6), ("random_shift", 0.1, -0.6), ("zero_shot", 0.1, -0.5), ("lp_ft", 1.0, -0.7)]
    axes = computed(*at_cost("full", 8.0), *close, *(r for each in far for r in at_cost(*each)))[1]
    assert [text.get_text() for text in axes.texts] == ["-0.60\n-0.50", "-0.70"]


def test_an_ensemble_whose_seeds_differ_in_size_is_in_the_figure_of_sizes():
    one = a_record("auto", 1)
    one.curves["ensemble_size"] = {"size": [1], "accuracy": [0.7], "calibrated_nll": [0.6]}
    found = rows(a_record("auto", 0), one, a_record("full"))
    figure = charts.ensemble_size(found, styles(found))
    lengths = [len(line.get_xdata()) for line in figure.axes[0].lines]
    assert lengths == [1, 3]


def test_learning_curves_stand_phase_by_phase_before_the_loss_on_validation():
    both, one = (a_record("full", seed) for seed in (0, 1))
    del one.curves["learning"]["tiny"]
    both.metrics["target/validation/member/nll"] = 0.75
    found = rows(both, one)
    [panel, rates] = charts.learning(found, styles(found)).axes
    curves = [line.get_xydata().tolist() for line in panel.lines if line.get_linewidth() == 1.2]
    full, tiny = [[0, 2], [4 / 5, 1]], [[1, 1.5], [1 + 2 / 3, 0.5]]
    assert curves == [full, tiny, full]
    assert [line.get_ydata().tolist() for line in rates.lines] == [[0.1, 0.01], [0.02, 0.01], [0.1, 0.01]]
    assert [line.get_ydata()[0] for line in panel.lines if line.get_marker() == "o"] == [0.75]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["full\n5", "tiny\n3"]


@pytest.mark.usefixtures("few_plans")
def test_a_row_that_a_figure_leaves_out_is_named_below_it(tmp_path):
    old = a_record("auto")
    del old.curves["ensemble_size"]
    found = {figure.svg.stem: figure.caption for figure in draw(rows(a_record(), old), tmp_path)}
    assert found["ensemble_size"].endswith("Without the numbers for it: auto.")
    assert "Without" not in found["reliability"]


@pytest.mark.usefixtures("few_plans")
def test_of_many_rows_each_strategy_has_its_best(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MANY", 3)
    many = [a_record(name, seed=0, option=i) for name in ("shift", "head") for i in range(2)]
    for i, record in enumerate(many):
        record.metrics["target/test/calibrated/nll"] = 1.0 - i / 100
    found = {figure.svg.stem: figure for figure in draw(rows(*many), tmp_path)}
    assert "Each strategy is shown where its calibrated NLL is lowest." in found["reliability"].caption
    alt = found["ensemble_size"].alt
    assert alt.startswith(f"{found['ensemble_size'].title}. shift (option=1): accuracy")
    assert "head (option=1)" in alt
    assert "option=0" not in alt
    assert found["compute"].alt.count("option=") == 4


def test_an_alternative_text_says_which_numbers_are_bounds():
    full, better = a_record("full"), a_record("shift")
    better.metrics[f"{TEST}calibrated/nll"] = 0.1
    assert "shift: worth ≥ 3" in plots._alt("title", ("worth",), rows(full, better))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("paper", ["#ffffff", "#1c1e23"])
def test_every_colour_can_be_seen_in_both_palettes(paper):
    css = Path(page.__file__).with_name("templates") / "page.css"
    assert f"--paper: {paper}" in css.read_text(encoding="utf-8")
    for style in [*strategies(style_module._KNOWN).values(), *strategies(map(str, range(30))).values()]:
        if style.colour != INK:  # which the page replaces by its own
            lighter, darker = sorted((luminance(style.colour), luminance(paper)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3.0, style


@pytest.mark.parametrize(("low", "high"), [(0.88, 1.42), (3.9, 780), (0.3, 0.9), (2, 30), (7e3, 2e9)])
def test_a_logarithmic_axis_has_enough_ticks_to_read(low, high):
    panel = Figure().subplots()
    panel.set(xscale="log", xlim=(low, high))
    charts.plain_logarithmic(panel.xaxis)
    shown = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert 3 <= len(shown) <= 8
    labels = [panel.xaxis.get_major_formatter()(tick) for tick in shown]
    assert len(set(labels)) == len(shown)


def test_a_baseline_of_other_seeds_is_not_the_zero_of_the_figure(tmp_path):
    def run(strategy, seed, budget, **options):
        record = a_record(strategy, seed, seed / 9, budget=budget)
        config = record.config | {"strategy": {"name": strategy} | options}
        cost = record.cost | {"total": record.cost["total"] | {"fine_tunings": budget or 1.0}}
        return replace(record, ensemble={"size": options.get("members", 3)}, cost=cost, config=config)

    swept = [run(name, seed, 1.5) for name in ("snapshots", "shift") for seed in (100, 101)]
    found = rows(run("few", 0, None, members=1), *swept)
    drawing = next(d for d in draw(found, tmp_path) if "Zero is" in d.caption)
    assert drawing.caption.startswith("Zero is the best rival of each budget.")


def test_the_front_is_drawn_for_each_network_alone():
    def of(net, flops, accuracy):
        runs = [
            a_record(name, seed, accuracy + own) for name, own in (("full", 0.0), ("shift", 0.01)) for seed in (0, 1)
        ]
        return [
            replace(r, config=r.config | {"backbone": {"name": net}}, cost=r.cost | {"full_flops": flops}) for r in runs
        ]

    ringed = [line for line in computed(*of("a", 1, 0.0), *of("b", 50, 0.1))[1].lines if line.get_markersize() == 11]
    assert len(ringed[0].get_xdata()) == 2
