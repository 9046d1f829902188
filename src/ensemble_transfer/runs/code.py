"""Code of one's own: what tells a module that is not the package's from what it was before."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

from ensemble_transfer.tasks.inputs import digest_of

_OURS = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")


@cache
def code_of(module: str) -> str:
    """Return a SHA-256 of a module and of all that it imports but installed packages; empty for one of ours.

    It is taken once in a process, which has the code that it has imported, whatever is written to its file later.
    """
    found: dict[str, str] = {}
    _collect(module, module.partition(".")[0], found)
    return digest_of(*(f"{name}\n{source}" for name, source in sorted(found.items()))) if found else ""


def _collect(name: str, top: str, found: dict[str, str]) -> None:
    """Add a module's source, and those of what it imports, unless it is ours, Python's, or another installed one."""
    module = sys.modules.get(name)
    if module is None or name in found or not _is_own(module, top):
        return
    found[name] = _source(module)
    for imported in _imports(module, found[name]):
        _collect(imported, top, found)


def _is_own(module: ModuleType, top: str) -> bool:
    package, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if package == _OURS or package in sys.stdlib_module_names or not file:
        return False
    return package == top or not set(_INSTALLED) & set(Path(file).parts)


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # a module without source, such as a compiled one
        return Path(str(module.__file__)).read_bytes().hex()


def _imports(module: ModuleType, source: str) -> Iterator[str]:
    """Yield the names of modules that a source may import, wherever it does."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # no source
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = resolve_name(name, module.__package__) if node.level else name
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
