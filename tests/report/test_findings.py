from dataclasses import replace

import records

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.findings import findings

NLL = "target/test/calibrated/nll"


def a_record(strategy, seed, nll, budget=1.5, spent=None, networks=2, **strategy_options):
    ensemble = {"size": strategy_options.get("members", networks), "lineage": "shared"}
    metrics = {NLL: nll, "target/test/ensemble/accuracy": 1 - nll / 2}
    prediction = {"networks": networks, "flops": 10**6}
    cost = {"total": {"fine_tunings": spent or budget or 1.0}, "prediction": prediction}
    config = {"strategy": {"name": strategy} | strategy_options, "budget": budget}
    return records.a_record(strategy, seed, ensemble=ensemble, metrics=metrics, cost=cost, config=config)


def three(strategy, values, **options):
    return [a_record(strategy, seed, value, **options) for seed, value in enumerate(values)]


ONE = three("few", (0.50, 0.52, 0.51), budget=None, networks=1, members=1)
FEW = three("few", (0.40, 0.43, 0.41), members=2)
SNAPSHOTS = three("snapshots", (0.41, 0.41, 0.42), networks=6)
AUTO = three("auto", (0.80, 0.85, 0.82), networks=3)


def sentences(*runs):
    [finding] = findings(Comparison.of(runs))
    assert len(finding.sentences) <= 3
    return finding.sentences


def test_the_verdict_sets_rows_against_one_member_names_the_best_and_what_it_costs():
    dear = three("auto", (0.80, 0.85, 0.82), spent=3.0, budget=None)
    against, best, costs = sentences(*ONE, *FEW, *SNAPSHOTS, *dear)
    assert against == (
        "Against the baseline, one member fully fine-tuned, in calibrated NLL, over 3 seeds: better: "
        "few (members=2, budget=1.5) (by 0.097 [0.082, 0.111]) and snapshots (budget=1.5) (by 0.097 [0.068, 0.125]); "
        "worse: auto (no budget) (by 0.313 [0.275, 0.351])."
    )
    assert best == (
        "few (members=2, budget=1.5) has the lowest calibrated NLL (0.413); "
        "snapshots (budget=1.5) cannot be told apart from it."
    )
    assert costs == (
        "few (members=2, budget=1.5) costs 1.50 fine-tunings and predicts with 2 networks; "
        "snapshots (budget=1.5) costs 1.50 fine-tunings and predicts with 6 networks."
    )


def test_what_an_interval_cannot_tell_apart_is_said_to_be_so():
    against, best, _ = sentences(*ONE, *three("auto", (0.3, 0.7, 0.5), budget=None))
    assert against.endswith("over 3 seeds: nothing is better; not to be told apart: auto.")
    assert best == "auto has the lowest calibrated NLL (0.500)."  # the first sentence has told the other


def test_the_lowest_of_the_rows_with_the_most_seeds_is_said_to_be_that():
    _, best, _ = sentences(*ONE, *FEW, *three("auto", (0.1, 0.12)))
    assert best.startswith("Of the rows with 3 seeds, few has the lowest")


def test_a_row_that_meets_no_rival_can_be_the_best_all_the_same():
    strong = three("few", (0.30, 0.31, 0.32), budget=None, networks=1, members=1)
    _, best, _ = sentences(*strong, *FEW, *AUTO)
    assert best.startswith("baseline has the lowest calibrated NLL (0.310)")


def test_one_seed_decides_nothing():
    by_time = {"fine_tunings": 1.5, "fine_tunings_by_time": 1.8}
    assert sentences(ONE[0], replace(FEW[0], cost=FEW[0].cost | {"total": by_time})) == (
        "One seed: the best by calibrated NLL is few (members=2, budget=1.5) (0.400), not a finding.",
        "Until more seeds decide, take the baseline.",
        "few (members=2, budget=1.5) costs 1.50 fine-tunings by FLOPs, 1.80 by time, and predicts with 2 networks; "
        "baseline costs 1.00 fine-tunings and predicts with 1 network.",
    )
    alone = sentences(FEW[0], SNAPSHOTS[0])
    assert alone[1] == "Until more seeds decide, take few at budget 1.5, the cheapest to predict with."


def test_a_row_without_the_number_that_decides_is_named_and_keeps_nobody_else_from_a_verdict():
    silent = [replace(r, metrics={}) for r in AUTO]
    _, best, _ = sentences(*ONE, *FEW, *silent)
    assert best.endswith("(without auto (budget=1.5), for lack of numbers).")


def test_without_numbers_or_with_one_row_there_is_a_sentence_all_the_same():
    nothing = ("Fewer than two rows have a calibrated NLL: there is nothing to compare.",)
    assert sentences(*AUTO) == sentences(*(replace(r, metrics={}) for r in [*AUTO, *FEW])) == nothing
    assert findings(Comparison.of([])) == []


def test_of_many_rows_that_lead_the_cheapest_is_named():
    tied = [r for i in range(8) for r in three("novel", (0.4, 0.45, 0.4 + i / 100), spent=3.0 - i / 4, option=i)]
    _, best, cheapest = sentences(*ONE, *tied)
    assert best.count("novel") == 5
    assert "and 3 more cannot be told apart from it." in best
    named = "novel (option=7, budget=1.5)"
    assert cheapest == f"The cheapest of these: {named} costs 1.25 fine-tunings and predicts with 2 networks."


def at_budgets(strategy, values, **options):
    return [r for budget, own in values.items() for r in three(strategy, own, budget=budget, **options)]


def test_at_several_budgets_each_strategy_is_set_against_the_best_rival_of_its_budget():
    few = at_budgets("few", {1.0: (0.50, 0.52, 0.51), 2.0: (0.30, 0.32, 0.31)}, members=2)
    auto = at_budgets("auto", {1.0: (0.40, 0.41, 0.42), 2.0: (0.29, 0.34, 0.31)})
    head = at_budgets("head", {1.0: (0.80, 0.81, 0.84), 2.0: (0.80, 0.82, 0.84)}, spent=0.1)
    against, best, costs = sentences(*few, *auto, *head)
    start = "Against the best rival of its budget, in calibrated NLL, over 3 seeds"
    assert against.startswith(f"{start}: better: auto at budget 1 (by 0.1")
    assert "; worse: head at budgets 1 and 2 (by up to 0.5" in against
    assert against.endswith("; not to be told apart: auto at budget 2.")
    assert best == "few at budget 2 has the lowest calibrated NLL (0.310)."  # and auto is named above
    assert costs.startswith("few at budget 2 costs 2.00 fine-tunings")
    assert sentences(*few, *head)[0].startswith(f"{start}: nothing is better; worse: head at budgets 1 and 2")


def test_every_pair_of_tasks_has_its_own_finding():
    other = [replace(r, dataset="mnist -> fashion") for r in [*ONE, *AUTO]]
    found = findings(Comparison.of([*ONE, *FEW, *other]))
    assert [finding.task for finding in found] == ["digits -> mnist", "mnist -> fashion"]
    assert "worse: auto (budget=1.5) (by" in found[1].sentences[0]


def test_a_row_that_has_spent_more_than_its_budget_is_not_set_against_the_rival_of_that_budget():
    against, best, _ = sentences(
        *FEW, *three("shift", (0.5, 0.54, 0.51)), *three("zero_shot", (0.2, 0.22, 0.21), spent=1.9)
    )
    assert "nothing is better; worse: shift" in against
    assert "zero_shot" not in against
    assert best.startswith("zero_shot has the lowest")


def test_a_named_baseline_is_what_the_verdict_is_against():
    full = three("full", (0.30, 0.31, 0.32), budget=None, spent=8.0)
    [finding] = findings(Comparison.of([*FEW, *AUTO, *full], "full"))
    assert finding.sentences[0].startswith(
        "Against full (no budget), in calibrated NLL, over 3 seeds: nothing is better"
    )


def test_strategies_of_two_networks_are_not_set_against_each_other_at_equal_cost():
    def of(net, flops, *runs):
        return [
            replace(r, config=r.config | {"backbone": {"name": net}}, cost=r.cost | {"full_flops": flops}) for r in runs
        ]

    small = of("small", 10**12, *FEW, *three("shift", (0.30, 0.34, 0.31)))
    large = of("large", 10**14, *three("few", (0.10, 0.13, 0.11), members=2))
    [finding] = findings(Comparison.of([*small, *large]))
    assert finding.sentences[0] == (
        "Against its baseline, in calibrated NLL, over 3 seeds: better: shift at budget 1.5 (by 0.097 [0.082, 0.111])."
    )


def test_a_row_of_one_seed_is_named_as_one_without_an_interval():
    against, *_ = sentences(*ONE, *AUTO, *three("shift", (0.1,)))
    assert against.endswith("; without an interval: shift (budget=1.5).")
