"""The Python half of the pretend device: makes a torch without CUDA believe in one, and counts waits and copies.

Importing it changes torch for the whole process. ``run.py`` builds the other half, and lets every Python of a command
import this one at its start.
"""

import collections
import ctypes
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

LIBRARY = Path(os.environ["PRETEND_CUDA_LIBRARY"])
ROOT = Path(__file__).resolve().parents[2]


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_pretend_cuda", LIBRARY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)  # its hooks must be there before torch asks for a device
import torch  # noqa: E402

_half = _loaded()
kernels: Callable[[], int] = _half.kernels
set_limit: Callable[[int], None] = _half.set_limit
"""Set the bytes of memory that the device has; 16 GiB at first."""

Counts = collections.Counter[tuple[str, str, str]]
"""How often each (``wait`` or ``copy``, by what, where in the project) happened."""

_counts: list[Counts] = []


def _heard(kind: str, what: str) -> None:
    if not _counts:
        return
    frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT / "src"))]
    where = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "elsewhere"
    for counts in _counts:
        counts[kind, what, where] += 1


@contextmanager
def counted() -> Iterator[Counts]:
    """Count the waits and copies of the block, of all threads of this process."""
    counts: Counts = collections.Counter()
    _counts.append(counts)
    try:
        yield counts
    finally:
        _counts.remove(counts)


def total(counts: Counts, kind: str) -> int:
    """Return how many waits, or copies, there were."""
    return sum(number for (found, _, _), number in counts.items() if found == kind)


def _visible() -> int:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices: int = _half.devices()
    return devices if seen is None else min(devices, len([d for d in seen.split(",") if d]))


def _index(device: Any = None) -> int:  # whatever torch.cuda takes
    if isinstance(device, int):
        return device
    asked = torch.device("cuda" if device is None else device)
    assert asked.type == "cuda", f"expected a cuda device, but got {asked}"
    return _half.device() if asked.index is None else asked.index


def _initialised() -> None:
    """Do what torch does when CUDA is first used: make generators, and run what waited for it."""
    cuda = torch.cuda
    if cuda._initialized:
        return
    cuda._initialized = True
    cuda.default_generators = tuple(_half.default_generator(place) for place in range(_half.devices()))
    for calls in (cuda._lazy_seed_tracker.get_calls(), cuda._queued_calls):
        for pair in filter(None, calls):
            pair[0]()


class _Stream:
    """A stream or an event: all work is done when it is asked for, but a host that waits is counted."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def synchronize(self) -> None:
        _heard("wait", f"torch.cuda.{type(self).__name__}.synchronize")

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *_, **__: True


class Stream(_Stream):
    """Passes for ``torch.cuda.Stream``."""


class Event(_Stream):
    """Passes for ``torch.cuda.Event``."""


def _synchronised(_device: object = None) -> None:
    _initialised()
    _heard("wait", "torch.cuda.synchronize")


def _free_and_total(_device: object = None) -> tuple[int, int]:
    _initialised()
    return _half.limit() - _half.used(), _half.limit()


def _current() -> int:
    _initialised()
    device: int = _half.device()
    return device


_PROPERTIES = SimpleNamespace(
    name="pretend CUDA device", total_memory=_half.limit(), major=9, minor=0, multi_processor_count=132
)

_MEMORY = {
    "mem_get_info": _free_and_total,
    "memory_allocated": lambda _=None: _half.used(),
    "memory_reserved": lambda _=None: _half.used(),
    "max_memory_allocated": lambda _=None: _half.peak(),
    "max_memory_reserved": lambda _=None: _half.peak(),
    "reset_peak_memory_stats": lambda _=None: _half.reset_peak(),
    "memory_stats": lambda _=None: {},
    "empty_cache": lambda: None,
}

_DEVICE = {
    "is_available": lambda: _visible() > 0,
    "device_count": _visible,
    "current_device": _current,
    "set_device": lambda device: _half.set_device(_index(device)),
    "_exchange_device": _half.set_device,
    "_maybe_exchange_device": _half.set_device,
    "_lazy_init": _initialised,
    "init": _initialised,
    "synchronize": _synchronised,
    "get_device_name": lambda _=None: _PROPERTIES.name,
    "get_device_capability": lambda _=None: (_PROPERTIES.major, _PROPERTIES.minor),
    "get_device_properties": lambda _=None: _PROPERTIES,
    "is_bf16_supported": lambda *_, **__: True,
    "is_current_stream_capturing": lambda: False,
    "current_stream": lambda _=None: Stream(),
    "Stream": Stream,
    "Event": Event,
}


def _of_storage(method: str) -> Callable[[torch.UntypedStorage], torch.UntypedStorage]:
    """Return a method of storages, by tensors on the device: torch's own asks CUDA's runtime."""
    original = getattr(torch.UntypedStorage, method)

    def copied(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if storage.device.type != "cuda":
            return original(storage)
        whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),), (1,))
        return getattr(whole, method)().untyped_storage()

    return copied


def _install() -> None:
    for name, value in {**_DEVICE, **_MEMORY}.items():
        setattr(torch.cuda, name, value)
    for name, value in _MEMORY.items():
        setattr(torch.cuda.memory, name, value)
    torch.cuda.random._lazy_init = torch.cuda.memory._lazy_init = _initialised
    torch.cuda.random.device_count = _visible  # or torch.manual_seed would seed no device
    torch._C._cuda_getDevice = _half.device
    for name in ("_cuda_setDevice", "_cuda_exchangeDevice", "_cuda_maybeExchangeDevice"):
        setattr(torch._C, name, _half.set_device)
    torch.UntypedStorage.clone, torch.UntypedStorage.cpu = _of_storage("clone"), _of_storage("cpu")
    _half.listen(_heard)


_install()
sys.modules.setdefault("pretend_cuda", sys.modules[__name__])
