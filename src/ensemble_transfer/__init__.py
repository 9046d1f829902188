"""Transfer ensembles of deep networks to a new task."""

__version__ = "0.1.0"
