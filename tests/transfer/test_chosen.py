"""An ensemble says in its history whether it was chosen on the target's validation images."""

import pytest

from ensemble_transfer import Auto, Few, Shift, Turns

CASES = {
    "auto": (Auto(), 4.0, True),
    "auto that has nothing to choose from": (Auto(), 0.2, False),
    "turns": (Turns(donors=1, scales=[1.0, 2.0]), None, True),
    "turns with one scale": (Turns(donors=1, scales=[1.0]), None, False),
    "shift, if it is better": (Shift(if_better=True), None, True),
    "shift": (Shift(), None, False),
    "few": (Few(), None, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_history_tells_a_choice_on_validation(transfer, case):
    strategy, budget, chosen = CASES[case]
    result = transfer(strategy, budget=budget)
    assert result.ensemble.history.get("chosen_on") == ("validation" if chosen else None)
