"""Every Python of a command that ``run.py`` starts sees the pretend device."""

import os
import sys
from pathlib import Path

if "PRETEND_CUDA_LIBRARY" in os.environ:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import pretend_cuda  # noqa: F401
