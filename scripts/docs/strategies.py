"""For ``make docs``: put the strategies of ``conf/strategy`` where a page marks their place: as a list, or classes."""

from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[2] / "conf" / "strategy"
LIST, CLASSES = "<!-- strategies -->", "<!-- classes of strategies -->"


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401
    """Return a page with the strategies in their places; MkDocs calls it."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in sorted(CONF.glob("*.yaml"))}
    rows = [f"| `{name}` | {text.partition(chr(10))[0].removeprefix('# ')} |" for name, text in files.items()]
    targets = [line.split()[1] for text in files.values() for line in text.splitlines() if line.startswith("_target_:")]
    classes = "\n\n".join(f"::: {target}" for target in dict.fromkeys(targets))
    table = "\n".join(["| strategy | what it does |", "| --- | --- |", *rows])
    return markdown.replace(LIST, table).replace(CLASSES, classes)
