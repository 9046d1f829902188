from ensemble_transfer.report.explanations import choice_text
from ensemble_transfer.report.record import Record

TAKEN = {"name": "2 fine-tuned", "members": 2, "accuracy": 0.812, "nll": 0.5, "taken": True}
CLOSE = {"name": "heads alone", "members": 8, "accuracy": 0.801, "nll": 0.51, "taken": False}
INTERVALS = ({"behind": 0.0, "low": 0.0, "high": 0.0}, {"behind": 0.01, "low": -0.02, "high": 0.04})
PILOTS = [
    {"lr": 0.03, "steps": 18, "training": 1.03, "taken": True},
    {"lr": 0.09, "steps": 18, "training": None, "taken": False},
    {"lr": 0.01, "steps": 18, "training": 0.99, "taken": True},
]


def text(**choice):
    return choice_text(Record("finished", "auto", 0, "a -> b", "resnet10t", {}, curves={"choice": choice}))


def test_a_run_that_chose_tells_its_candidates_and_rates():
    candidates = [one | interval for one, interval in zip((TAKEN, CLOSE), INTERVALS, strict=True)]
    told = text(candidates=candidates, pilots=PILOTS, lr=[0.01, 0.03], steps=[125, 124])
    assert "| 2 fine-tuned | 2 | 0.812 | 0.500 | taken |" in told
    assert "| heads alone | 8 | 0.801 | 0.510 | +0.010 [-0.020, +0.040] |" in told
    assert (
        "Members were fine-tuned for 125, 124 steps with recipe.full.lr=0.01, 0.03, by the training loss of pilots"
        in told
    )
    assert "pilots of 18 steps: 1.03 at 0.03, diverged at 0.09, 0.99 at 0.01." in told
    assert told.endswith("since its interval includes zero: heads alone.")


def test_a_budget_too_small_for_a_choice_is_told():
    told = text(candidates=[], pilots=[], lr=[0.01], steps=[30])
    assert told == "One member was fine-tuned with the whole budget, which is too small to pay for heads and a choice."


def test_a_choice_without_pilots_is_told():
    told = text(candidates=[TAKEN | INTERVALS[0]], pilots=[], lr=[0.01], steps=[125, 124])
    assert told.endswith("with recipe.full.lr=0.01: no other was tried.")


def test_turns_tells_its_scale():
    record = Record("finished", "turns", 0, "a -> b", "resnet10t", {}, curves={"turns": {"scale": 1.5}})
    assert choice_text(record) == "Members after the donors are shifted by 1.5 times the donors' moves."


def test_a_run_without_a_choice_tells_nothing():
    assert choice_text(Record("finished", "shift", 0, "a -> b", "resnet10t", {})) == ""
