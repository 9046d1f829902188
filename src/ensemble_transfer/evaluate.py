"""``python -m ensemble_transfer.evaluate PREDICTIONS.npz``: every metric of saved predictions."""

from ensemble_transfer.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
