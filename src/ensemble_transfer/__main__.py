"""``python -m ensemble_transfer``."""

import sys

from ensemble_transfer.cli.main import main

sys.exit(main())
