"""What a user is told whose setting cannot be used."""

from collections.abc import Callable

import pytest

from ensemble_transfer.errors import SettingError


def refusal(call: Callable, *given: object, **settings: object) -> SettingError:
    """Return the error of a call that must be refused, in one line."""
    with pytest.raises(SettingError) as caught:
        call(*given, **settings)
    assert "\n" not in str(caught.value)
    return caught.value
