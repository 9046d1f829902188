"""Pages of the documentation."""

import re
from pathlib import Path


def blocks(page: Path | str, language: str = "python") -> list[str]:
    """Return the blocks of code of a page, or of a page of ``docs/`` by its name."""
    path = page if isinstance(page, Path) else Path(__file__).parents[1] / "docs" / f"{page}.md"
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
