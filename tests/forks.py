"""Commands in processes of their own that start at once: they are forked from one that has imported everything.

What such a process has of its own is its output, folder, environment, signals and exit code. What it does not have is
a start of the interpreter: a test of imports or of the locale starts Python itself.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """#!{python}
import os, sys, tempfile
from pathlib import Path
sys.path.append({tests!r})
from forks import Forks
with tempfile.TemporaryDirectory() as folder:
    done = Forks(Path(folder)).run(*sys.argv[sys.argv.index("-m") + 1 :], cwd=Path.cwd(), **os.environ)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""

SMALL = [
    "ensemble.size=2",
    "backbone.options.channels=[4,8,8,8]",
    "backbone.options.stem_width=4",
    "dataset.image_size=8",
    "dataset.target.train=60",
    "dataset.target.validation=40",
    "dataset.target.test=50",
    "recipe.ancestor.steps=12",
    "recipe.source.steps=3",
    "recipe.full.steps=5",
    "recipe.tiny.steps=2",
    "recipe.probe.steps=4",
    "recipe.head.steps=4",
    "evaluation.diagnostics=false",
    "trainer.threads=1",
    "trainer.progress=false",
]
"""Settings of a job that takes a second."""


ADDRESS = "ENSEMBLE_TRANSFER_FORKS"
"""The variable that names the socket of the process that commands are forked from."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Fork:
    """A command that goes on."""

    def __init__(self, forks: "Forks", pid: int, outputs: tuple[Path, Path]) -> None:
        self.pid = pid
        self._forks, self._outputs, self._code = forks, outputs, None

    def poll(self) -> int | None:
        """Return the exit code, below 0 after a signal, or None while the command goes on."""
        if self._code is None:
            self._code = self._forks.ask("poll", self.pid)
        return self._code

    def wait(self, seconds: float = 300) -> Done:
        """Wait for the end, and kill what does not end in time."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        return Done(self._code, *(path.read_text() if path.is_file() else "" for path in self._outputs))

    def wait_for(self, folder: Path, pattern: str) -> None:
        """Wait until the command has written such a file, as a checkpoint that shows that a fit is going on."""
        deadline = time.monotonic() + 300  # cores are shared
        while not list(folder.glob(pattern)):
            assert self.poll() is None, self.wait()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Server:
    """The process that commands are forked from. It imports everything when the first is to start."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()  # the address of a socket must be short
        os.environ[ADDRESS] = str(Path(self._folder.name) / "socket")
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process.stdout.readline()  # now it listens

    def close(self) -> None:
        self._process.communicate()
        self._folder.cleanup()


class Forks:
    """Start commands, each of them in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def ask(self, *words: object) -> int | None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(os.environ[ADDRESS])
            with server.makefile("rw") as lines:
                lines.write(json.dumps(words) + "\n")
                lines.flush()
                return json.loads(lines.readline())

    def start(self, *words: object, cwd: Path, stdout: Path | None = None, **environment: str) -> Fork:
        """Start ``python -m MODULE ARGUMENTS``, or a script, in a folder; standard output may be a pipe or device."""
        self._count += 1
        outputs = stdout or self._folder / f"{self._count}.out", self._folder / f"{self._count}.err"
        pid = self.ask("start", list(map(str, words)), str(cwd), list(map(str, outputs)), environment)
        return Fork(self, pid, outputs)

    def run(self, *words: object, cwd: Path, **environment: str) -> Done:
        return self.start(*words, cwd=cwd, **environment).wait()


def program(path: Path) -> None:
    """Write a program that runs the module that it is given after -m, as Python would, but in a fork."""
    path.write_text(PROGRAM.format(python=sys.executable, tests=str(Path(__file__).parent)))
    path.chmod(0o755)


def import_everything() -> None:
    """Import what commands import, the package and what it imports late."""
    import pkgutil
    from importlib import import_module

    import matplotlib.backends.backend_svg  # noqa: F401

    import ensemble_transfer

    for module in pkgutil.walk_packages(ensemble_transfer.__path__, "ensemble_transfer."):
        if not module.name.endswith("__main__") and module.name.count(".") > 1:
            import_module(module.name)


def serve() -> list[str]:
    """Answer whoever connects until standard input ends; a fork of this process returns the words of its command."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.environ[ADDRESS])
        server.listen(100)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection = server.accept()[0]
            with connection, connection.makefile("rw") as lines:
                name, *given = json.loads(lines.readline())
                if name == "poll":
                    pid, status = os.waitpid(given[0], os.WNOHANG)
                    answer = os.waitstatus_to_exitcode(status) if pid else None
                else:
                    import_everything()
                    answer = os.fork()
                    if not answer:
                        become(*given[1:])
                        return given[0]
                lines.write(json.dumps(answer) + "\n")
    os._exit(0)


def become(cwd: str, outputs: list[str], environment: dict[str, str]) -> None:
    """Give this process its session, folder, environment and output."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    os.chdir(cwd)
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR is read again
    for number, path in enumerate([os.devnull, *outputs]):
        os.dup2(os.open(path, os.O_RDWR if path == os.devnull else os.O_WRONLY | os.O_CREAT, 0o644), number)


def main() -> None:
    """Run a module, or a script, as Python does, and end without the seconds that taking all modules apart needs."""
    sys.argv = serve()
    script, code = sys.argv[0], 0
    try:
        sys.path[0] = str(Path(script).parent if os.sep in script else Path.cwd())
        if os.sep in script:
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # noqa: BLE001  # it ends as any process would
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
