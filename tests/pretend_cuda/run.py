"""Run a command of the project on a pretend CUDA device, which is built first where that has not been done.

python tests/pretend_cuda/run.py python -m pytest -m gpu tests/test_gpu.py
python tests/pretend_cuda/run.py python -m ensemble_transfer strategy=shift trainer=gpu

Needs g++ and the headers of Python; without g++ it says so and exits with code 0. ``PRETEND_CUDA_DEVICES=2`` gives two
devices.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SOURCES = ("device.hpp", "call.hpp", "kernels.cpp")


def library() -> Path:
    """Return the library, built for this version of torch and of the sources, in the cache of the user."""
    digest = hashlib.sha256((torch.__version__ + sys.version).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ensemble_transfer"
    path = cache / f"pretend_cuda-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        _build(path)
    return path


def _build(path: Path) -> None:
    folder = Path(torch.__file__).parent
    path.parent.mkdir(parents=True, exist_ok=True)
    includes = [folder / "include", folder / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10", "-ltorch_python"]
    with tempfile.TemporaryDirectory(dir=path.parent) as building:
        built = Path(building) / "built.so"
        command = ["g++", "-O1", "-std=c++20", "-fPIC", "-shared", "-w", "-DTORCH_EXTENSION_NAME=_pretend_cuda"]
        command += [f"-I{include}" for include in includes] + [str(HERE / "kernels.cpp"), "-o", str(built)]
        command += [f"-L{folder / 'lib'}", *libraries, f"-Wl,-rpath,{folder / 'lib'}"]
        subprocess.run(command, check=True)
        built.rename(path)


def main(command: list[str]) -> int:
    """Run a command on the pretend device and return its exit code."""
    if shutil.which("g++") is None:
        print("no pretend CUDA device: g++ is missing")
        return 0
    if torch.version.cuda is not None:
        print("no pretend CUDA device: this torch was built with CUDA")
        return 0
    startup = os.pathsep.join(filter(None, [str(HERE / "startup"), os.environ.get("PYTHONPATH")]))
    there = {"PRETEND_CUDA_LIBRARY": str(library()), "PYTHONPATH": startup}
    return subprocess.run(command, env=os.environ | there, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
