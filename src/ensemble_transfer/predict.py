"""``python -m ensemble_transfer.predict RUN IMAGES...``: predict classes of images."""

from ensemble_transfer.cli.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
