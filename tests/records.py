"""Records as runs leave them, folders of them, and tables of pages."""

from pathlib import Path

from ensemble_transfer.report.record import Record

ROLES = {"few": "rival", "snapshots": "rival", "full": "reference", "random_shift": "control", "tiny": "control"}


def a_record(strategy: str = "shift", seed: int = 0, dataset: str = "digits -> mnist", **fields: object) -> Record:
    """Return the record of a finished run of eight members, with other fields besides."""
    usual = {
        "role": ROLES.get(strategy, "method"),
        "status": "finished",
        "backbone": "resnet10t",
        "ensemble": {"size": 8, "lineage": "shared"},
    }
    return Record(strategy=strategy, seed=seed, dataset=dataset, **usual | fields)


def failed(error: str = "lr=nan: must be above 0 and finite") -> Record:
    return a_record("full", 7, status="failed", error=error)


def saved(folder: Path, *records: Record) -> Path:
    """Save each record in a folder of its number, and return the folder of all."""
    for number, record in enumerate(records):
        (folder / str(number)).mkdir(parents=True)
        record.save(folder / str(number))
    return folder


def rows_below(heading: str, page: str) -> list[dict[str, str]]:
    """Return the rows of the first table after a heading, as cells by column."""
    lines = page.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(head, row, strict=True)) for row in rows]
