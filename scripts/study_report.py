"""Report a study from the records of its runs: ``python scripts/study_report.py SWEEP_DIR... OUTPUT_DIR``.

Writes README.md, records.csv (a row for each run), table.csv (mean, standard deviation and n over seeds) and figures/
into OUTPUT_DIR, from what has finished so far. Nothing is trained. What a person concludes goes into CONCLUSIONS.md in
the same folder, which the README then includes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP_DIR", help="folder of a sweep")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="where the report goes")
    options = parser.parse_args()

    from study_reporting import figures, readme
    from study_reporting.runs import Study

    try:
        study = Study.read(options.sweeps)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    study.frame.to_csv(options.output / "records.csv", index=False)
    study.table().to_csv(options.output / "table.csv", index=False)
    drawn = figures.draw(study, options.output / "figures")
    conclusions = options.output / "CONCLUSIONS.md"
    said = conclusions.read_text(encoding="utf-8") if conclusions.is_file() else ""
    text = readme.text(study, drawn, said)
    (options.output / "README.md").write_text(text, encoding="utf-8")
    print(options.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
