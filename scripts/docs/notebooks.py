"""Shows the executed notebooks of ``docs/`` as pages; a hook of MkDocs."""

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
        text = text.replace("![png]", "![the output of this cell, as a figure]")
        text = text.replace("\n", f'\n\n<a href="../{path.name}" download>Download this notebook</a>\n', 1)
        files.append(File.generated(config, str(path.with_suffix(".md")), content=text))
        for name, figure in made["outputs"].items():
            files.append(File.generated(config, str(path.parent / name), content=figure))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Link the pages of notebooks where a page links the notebooks."""
    return markdown.replace(".ipynb)", ".md)")
