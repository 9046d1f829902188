"""``python -m ensemble_transfer.compare`` on the records of the ablations: tables, figures and pages."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarking.measure import Options, Result, medians
from benchmarking.startup import until_end

RECORDS = Path(__file__).parents[2] / "benchmarks" / "ablation" / "records.tar.xz"


def run(options: Options) -> Result:
    """Compare all records, three times; the first four of them where it is to be quick."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(RECORDS) as archive:
            archive.extractall(folder, filter="data")
        records = sorted(Path(folder).rglob("record.json"))
        for path in records[4:] if options.quick else ():
            shutil.rmtree(path.parent)
        command = [sys.executable, "-m", "ensemble_transfer.compare", folder, "--output", f"{folder}/comparison"]
        unlimited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # of cores
        times = [until_end(command, unlimited) for _ in range(1 if options.quick else 3)]
    return {"records": 4 if options.quick else len(records)} | medians({"compare": times})
