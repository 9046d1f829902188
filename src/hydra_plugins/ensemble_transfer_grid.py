"""Where Hydra looks for plugins: packages of its own name alone."""

from ensemble_transfer.cli.grid import Grid


class ResumableGrid(Grid):
    """The sweep of :mod:`ensemble_transfer.cli.grid`, which no other program of this machine uses by itself."""
