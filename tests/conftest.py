"""Whatever process runs tests gets the fixtures; one that gives them to others imports nothing slow.

Every process has one thread, unless OMP_NUM_THREADS says otherwise, so that tests may run beside each other.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start

import pytest
from forks import Server

LONGEST = ("test_notebook", "test_launchers", "test_leftovers", "test_kills", "test_examples")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of the longest tests, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures where tests run, and start the one process from which all others fork commands."""
    worker = hasattr(config, "workerinput")
    if worker or config.getoption("collectonly") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("common")
    if not worker:
        server = Server()
        config.add_cleanup(server.close)
