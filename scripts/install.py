"""Install the package with an extra into the environment that runs this: by uv, or by pip where uv cannot be had.

`make setup` runs it in .venv with an extra, or several, and further arguments of pip install, such as --index-url URL.
``UV`` names uv; where it is empty, pip installs. uv reads nothing of pip's configuration, so what pip is told of
mirrors, wheels on disk and versions is handed on. What the installers print goes into ``install.log`` in the
environment.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

BIN = Path(sys.executable).parent
LOG = Path(sys.prefix) / "install.log"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
VERSIONS = ["--constraint", "constraints.txt"]
SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration; a later one wins."""
HANDED_ON = ("index-url", "extra-index-url", "find-links", "constraint", "trusted-host")
LIKE_PIP = ["--index-strategy", "unsafe-best-match"]
"""uv takes a package from the first index that has it, pip the newest version of all."""
IMPORTED = ("import torchvision, pytorch_lightning", "import matplotlib.pyplot, scipy.stats, sklearn, wandb, hydra")
"""What every run imports, in halves of about one length, for two cores."""


def main() -> int:
    """Install, say in one line what with and for how long, and where the log is if that fails."""
    extra, *arguments = sys.argv[1:]
    if unknown := [name for name in extra.split(",") if f"\n{name} = [" not in Path("pyproject.toml").read_text()]:
        print(f"EXTRA={extra!r}: pyproject.toml has no extra {unknown[0]!r}")
        return 1
    start = time.monotonic()
    print(f"Installing into {sys.prefix}, with what {extra} needs ... ", end="", flush=True)
    with LOG.open("w") as log:
        installer = next((name for name in ("uv", "pip") if installed(name, extra, arguments, log)), None)
        if installer:
            compile_imports(log)
    if installer is None:
        print(f"failed; the log is {LOG}, and ends with:\n{LOG.read_text()[-500:]}")
        return 1
    print(f"done by {installer} in {time.monotonic() - start:.0f} s")
    return 0


def installed(name: str, extra: str, arguments: list[str], log: TextIO) -> bool:
    """Return whether an installer is there and has installed the package for development."""
    command = uv(log) if name == "uv" else [*PIP, "install", "--no-compile"]
    package = ["--editable", f".[{extra}]"]
    return command is not None and succeeds([*command, *VERSIONS, *arguments, *package], log)


def uv(log: TextIO) -> list[str] | None:
    """Return the command of uv with pip's configuration, or None. Where it is not on the path, pip gets it."""
    if not (name := os.environ.get("UV", "uv")):
        return None
    path = shutil.which(name) or shutil.which(BIN / "uv")
    if path is None and succeeds([*PIP, "install", *VERSIONS, "uv"], log):
        path = shutil.which(BIN / "uv")
    return path and [path, "pip", "install", "--python", sys.executable, *LIKE_PIP, *handed_on(pip_settings())]


def pip_settings() -> dict[str, str]:
    """Return pip's options for an installation, from its files and from the environment."""
    told = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = {}
    for section in SECTIONS:
        for name, _, value in (line.partition("=") for line in told.splitlines()):
            where, _, option = name.rpartition(".")
            if where == section:
                settings[option] = ast.literal_eval(value)
    return settings


def handed_on(settings: dict[str, str]) -> list[str]:
    """Return pip's options in the words of uv."""
    words = {"trusted-host": "allow-insecure-host"}
    options = [(words.get(name, name), value) for name in HANDED_ON for value in settings.get(name, "").split()]
    flags = ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    return [*flags, *(word for name, value in options for word in (f"--{name}", value))]


def compile_imports(log: TextIO) -> None:
    """Import what a run imports, so that the first one finds it compiled: a fifth of all files, on two cores."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    imports = [
        subprocess.Popen([sys.executable, "-c", line], stdout=log, stderr=log, env=environment) for line in IMPORTED
    ]
    for process in imports:
        process.wait()


def succeeds(command: list[str], log: TextIO) -> bool:
    """Return whether a command succeeds. The log tells the command and has what it prints."""
    print("$", *command, file=log, flush=True)
    return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
