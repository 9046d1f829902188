"""``python -m ensemble_transfer.rivals RUN``: the baseline and the rivals of a run at its cost, and the comparison."""

from ensemble_transfer.cli.rivals import main

if __name__ == "__main__":
    raise SystemExit(main())
