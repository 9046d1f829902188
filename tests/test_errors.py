import pickle

import pytest

from ensemble_transfer.errors import Interrupted, SettingError, require, settings_under


def test_groups_make_the_full_name():
    full = pytest.raises(SettingError, match=r"^strategy\.shift\.scale=0: must be above 0$")
    with full, settings_under("strategy"), settings_under("shift"):
        require(False, "scale", 0, "must be above 0")
    assert str(SettingError("seed", 1, "no").under("")) == "seed=1: no"


def test_a_launchers_worker_can_send_the_error():
    error = pickle.loads(pickle.dumps(SettingError("scale", [1], "must be a number")))
    assert (error.setting, error.value, error.rule) == ("scale", [1], "must be a number")
    assert pickle.loads(pickle.dumps(Interrupted(15))).exit_code == 143
