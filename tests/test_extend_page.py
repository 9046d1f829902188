"""The Python of docs/extend.md adds a member to a transferred ensemble."""

import re
from pathlib import Path

from ensemble_transfer import EnsembleSettings, Shift, train_source, transfer_ensemble
from ensemble_transfer.weights import fingerprint

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


def test_the_snippet_adds_a_member(source_ensemble, source_task, target_task, backbone, recipes, fitter):
    larger, _ = train_source(EnsembleSettings(4), backbone, source_task, 0, recipes, fitter)
    result = transfer_ensemble(Shift(), source_ensemble, target_task, 0, recipes, fitter)
    names = {"larger_source": larger, "target": target_task, "moved": result.ensemble, "shift": result.shift}
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(code, names)
    members = names["larger"].members
    assert [fingerprint(member) for member in members[:3]] == [fingerprint(m) for m in result.ensemble.members]
    assert len(members) == 4
