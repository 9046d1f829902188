"""Transfer ensembles of deep networks to a new task.

Public API: ``from ensemble_transfer import Backbone, Shift, train_source``. A name is imported at its first use, so
that ``import ensemble_transfer`` costs nothing. ``ensemble_transfer.evaluate`` is a command; the function that computes
the metrics is ``evaluate`` of :mod:`ensemble_transfer.metrics.evaluate`.
"""

import re
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULES = {name: module for module, name in re.findall(r"^from (\S+) import (\w+)", _STUB, re.MULTILINE)}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
