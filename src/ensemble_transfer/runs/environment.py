"""Describe versions, hardware and commit of a run, so that a reader can judge and repeat its timings."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ensemble_transfer.training.settings import TrainerSettings

_PACKAGES = [
    "ensemble-transfer",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "timm",
    "wandb",
    "numpy",
    "scikit-learn",
]


def describe(settings: TrainerSettings) -> dict[str, Any]:
    """Return versions, hardware, threads, memory layout, git commit and time, as plain data."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        **machine(settings),
        "channels_last": settings.lays_channels_last,
        "git_commit": _git_commit(),
    }


def machine(settings: TrainerSettings) -> dict[str, Any]:
    """Return what a timing depends on besides the work: processor, cores, threads and device."""
    device = settings.device
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from, marked where files were changed since.

    None where git does not track this file: a package installed into a folder of another repository is not part of it.
    """
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints; None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
