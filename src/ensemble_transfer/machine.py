"""The machine's resources: free memory, usable cores, servers that answer."""

import ctypes
import logging
import multiprocessing
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from rich.console import Console

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds in which a server must answer. Libraries by themselves try every address again and again, for minutes."""

FLOPS_A_SECOND, SECONDS_A_STEP = 2e10, 4e-3
"""What a core computes of small convolutions, and what a member's step costs besides, both roughly."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt``, by ``malloc.h``."""

_CGROUP = Path("/sys/fs/cgroup")

_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and its parts below ``/sys/fs/cgroup``, of version 2 and version 1."""


def free_memory(device: "torch.device | None" = None) -> int:
    """Return the free bytes of a GPU, else of the machine, within the limit of its container (cgroup v2, v1).

    Where there is no ``/proc/meminfo``, as on macOS, all memory counts as free.
    """
    if device is not None and device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    free.append(1024 * _field(Path("/proc/meminfo"), "MemAvailable:", free[0] // 1024))
    for limit, used, parts in (tuple(_CGROUP / name for name in names) for names in _CGROUPS):
        most = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
        if most.isdigit():
            free.append(int(most) - int(used.read_text(encoding="utf-8")) + _field(parts, "inactive_file", 0))
    return max(0, min(free))


def usable_cores() -> int:
    """Return how many cores this process may use.

    The fewest of its affinity, the quota of its container (both by joblib) and OMP_NUM_THREADS.
    """
    import joblib

    cores: int = joblib.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")  # launchers set it so that jobs side by side share the cores
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


def end_with(parent: int, *folders: str) -> None:
    """End this process as soon as the one that started it has ended, however that was; a thread looks every second.

    Args:
        parent: Number of the process that started this one.
        folders: Temporary folders of that process, which nobody else removes.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def keep_freed_memory() -> None:
    """Let the C library keep up to a gigabyte of memory that was freed, where it is glibc.

    By itself it gives large tensors back to the system at once, which hands out fresh pages for every step's.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_TRIM_THRESHOLD, 2**30)
        library.mallopt(_MMAP_THRESHOLD, 2**30)


def return_freed_memory() -> None:
    """Let the C library give the memory that was freed back to the system, where it is glibc."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def is_one_of_many() -> bool:
    """Return whether this process is one of several that share the machine, without a share of its own.

    Jobs of joblib and Ray have one: these launchers set OMP_NUM_THREADS, which :func:`usable_cores` respects.
    """
    local_job = os.environ.get("SUBMITIT_EXECUTOR") == "local"
    name = multiprocessing.current_process().name
    return local_job or not name.startswith(("MainProcess", "Loky"))


def _field(path: Path, name: str, default: int) -> int:
    """Return a number from a file of lines ``name number ...``."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), default)


def answers(*urls: str) -> bool:
    """Return whether one of some servers answers anything at all, through a proxy where one is set."""
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
        except (urllib.error.HTTPError, HTTPException):
            answered.set()  # a refusal is an answer too
        except (OSError, ValueError) as error:
            if isinstance(getattr(error, "reason", error), ssl.SSLError):
                answered.set()  # a server is there; libraries bring certificates of their own
        else:
            answered.set()

    # In threads, since looking a name up has no timeout.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    while not answered.wait(0.02) and time.monotonic() < deadline:
        if not any(thread.is_alive() for thread in threads):
            break
    return answered.is_set()


@contextmanager
def offline_unless_the_hub_answers(*others: Any) -> Iterator[bool]:  # noqa: ANN401  # modules of libraries
    """Restrict libraries of the Hugging Face hub to their caches in the block, where the hub does not answer in time.

    Without this, they try again for most of a minute. A warning says that the hub does not answer.

    Args:
        others: Modules that have ``HF_HUB_OFFLINE`` besides ``huggingface_hub.constants``.

    Yields:
        Whether the block is offline: the hub does not answer, or ``HF_HUB_OFFLINE`` was set.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT)
    if offline and not constants.HF_HUB_OFFLINE:
        log.warning("%s does not answer: only what was downloaded before can be used", constants.ENDPOINT)
    before = [(module, module.HF_HUB_OFFLINE) for module in (constants, *others)]
    for module, chosen in before:
        module.HF_HUB_OFFLINE = chosen or offline
    try:
        yield offline
    finally:
        for module, chosen in before:
            module.HF_HUB_OFFLINE = chosen


def progress_console() -> "Console":
    """Return the console that progress bars are drawn on: standard error.

    In a notebook bars move by ipywidgets. Without it rich would warn at every bar and draw none; so a bar is text then,
    which is printed when it is full.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_jupyter or _has_widgets():
        return console
    return Console(stderr=True, force_jupyter=False, force_terminal=False)


def _has_widgets() -> bool:
    try:
        return find_spec("ipywidgets") is not None
    except ValueError:  # what was kept from being imported has no spec
        return False
