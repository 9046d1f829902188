"""``python -m ensemble_transfer``."""

from ensemble_transfer.cli.main import main

raise SystemExit(main())
