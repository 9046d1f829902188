"""``python -m ensemble_transfer.export RUN OUT.onnx``: write an ensemble as one ONNX file."""

from ensemble_transfer.cli.export import main

if __name__ == "__main__":
    raise SystemExit(main())
