"""Execute notebooks anew and keep their outputs: python scripts/docs/execute.py NOTEBOOK ..."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(paths: list[str]) -> None:
    """Execute each notebook in its folder; what changes from run to run, such as times, is left out."""
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        known = dict(notebook.metadata)
        place = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, record_timing=False, coalesce_streams=True, resources=place).execute()
        notebook.metadata = nbformat.from_dict(known)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
