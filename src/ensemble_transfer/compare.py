"""``python -m ensemble_transfer.compare DIRS...``: redraw a comparison from records, at any time."""

from ensemble_transfer.cli.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
