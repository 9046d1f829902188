"""``python -m ensemble_transfer.extend RUN ensemble.add=3``: add members by the stored shift vector."""

from ensemble_transfer.cli.extend import main

if __name__ == "__main__":
    raise SystemExit(main())
