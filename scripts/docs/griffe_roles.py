"""For ``make docs``: turn the Sphinx roles of docstrings into links that mkdocstrings follows."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """Replaces ``:class:`~package.Name``` by a link to the object: its last part with a tilde, else all of it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)


def _link(role: re.Match[str]) -> str:
    short, name = role.groups()
    shown = name.rsplit(".", 1)[-1] if short else name
    if name.startswith("ensemble_transfer."):
        return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'  # text where no page has it
    return f"`{shown}`"
