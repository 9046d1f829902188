"""``python -m ensemble_transfer.compare DIRS...``: redraw a comparison from records, at any time."""

import sys

from ensemble_transfer.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
