"""Shows the executed notebooks of ``docs/`` as pages; a hook of MkDocs."""

import re
from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a Markdown page for each notebook, with the figures of its outputs beside it."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(notebook.src_uri)
        resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        text, made = MarkdownExporter().from_filename(notebook.abs_src_path, resources)
        files.append(File.generated(config, str(path.with_suffix(".md")), content=_dressed(text, path.name)))
        for name, figure in made["outputs"].items():
            files.append(File.generated(config, str(path.parent / name), content=figure))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Link the pages of notebooks where a page links the notebooks."""
    return markdown.replace(".ipynb)", ".md)")


def _dressed(text: str, name: str) -> str:
    """Return a page with a link to the notebook under its title, and with tables in the style of the theme."""
    text = re.sub(r"<style scoped>.*?</style>\n", "", text, flags=re.DOTALL)
    text = text.replace('<table border="1" class="dataframe">', "<table>")
    text = text.replace("![png]", "![the output of the cell, as a figure]")
    return text.replace("\n", f'\n\n<a href="../{name}" download>Download this notebook</a>\n', 1)
