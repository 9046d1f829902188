"""docs/notebook.md and docs/notebooks in real notebooks: everything runs, bars are drawn, and no output is long."""

import os
import re
import sys
from itertools import islice
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
LONG = 60_000
"""Characters of one output; scikit-learn's picture of a model takes some 40,000."""

SHORTER = """
from ensemble_transfer.runs import costs, estimator

costs.WARM, costs.TIMED = 1, 3

def shorter(group, name, made=estimator.preset_object):
    from dataclasses import is_dataclass, replace  # a notebook starts by a reset, which takes away all names

    found = made(group, name)
    long = {phase: recipe for phase, recipe in vars(found).items() if group == "recipe" and is_dataclass(recipe)}
    return replace(found, **{phase: replace(recipe, steps=recipe.steps // 10) for phase, recipe in long.items()})

estimator.preset_object = shorter
"""
"""Makes the recipes that a page names shorter, and the timing of a fine-tuning too."""

WITHOUT_WIDGETS = "import sys\nsys.modules['ipywidgets'] = None"
FITS = """
from ensemble_transfer import Digits, Recipe, Recipes, TransferEnsemble
few = {"train": 60, "validation": 30, "test": 30}
source = Digits(classes=["0", "1"], **few).load(8, 1)
target = Digits(classes=["2", "3"], **few).load(8, 1)
short = Recipes(Recipe(8), Recipe(4), Recipe(6), Recipe(2), Recipe(4), Recipe(4))
model = TransferEnsemble("shift", size=2, source=source, recipe=short, trainer="cpu").fit(target)
"""


SHOWN = ["model.ensemble_", "model.cost_", "model.calibration_", "target", "model.source_ensemble_"]
MISTAKES = [
    "from ensemble_transfer import Recipe\nRecipe(10, lr=-1.0)",
    "from ensemble_transfer.errors import RunError\nraise RunError('a worker died')",
]


PAGE = {"test=1000": "test=60", "Recipe(100)": "Recipe(10)", "Recipe(60,": "Recipe(6,", "Recipe(50)": "Recipe(5)"}
"""What is replaced in the snippets of the page to make them small."""


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def smaller(cells, replacements):
    for long, short in replacements.items():
        assert any(long in cell for cell in cells), long
        cells = [cell.replace(long, short) for cell in cells]
    return cells


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Outputs of all cells, as nbformat has them, after one kernel has run them, since imports take longest."""
    folder = tmp_path_factory.mktemp("notebooks")
    parts = {"start": [SHORTER], "page": smaller(snippets("notebook.md"), PAGE)}
    parts |= {name: small(name) for name in GALLERY}
    parts |= {"without widgets": [WITHOUT_WIDGETS, FITS, *SHOWN], "mistakes": MISTAKES}
    cells = [nbformat.v4.new_code_cell(cell) for part in parts.values() for cell in part]
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("TMPDIR", str(folder))
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, allow_errors=True).execute()
    outputs = iter([cell.outputs for cell in cells])
    found = {name: list(islice(outputs, len(part))) for name, part in parts.items()}
    for name, part in found.items():
        errors = [output for outputs in part for output in outputs if output.output_type == "error"]
        assert name == "mistakes" or not errors, errors
    return found, folder


def texts(outputs):
    """Return what a reader sees, as text."""
    shown = [out["text"] if out.output_type == "stream" else out["data"].get("text/plain", "") for out in outputs]
    return [text for text in shown if text]


def test_every_snippet_of_the_page_runs(done):
    first, *_ = snippets("notebook.md")
    code = [line for line in first.splitlines() if line and not line.startswith(("from", "import"))]
    assert len(code) <= 5
    outputs = done[0]["page"]
    assert max(len(str(output)) for part in outputs for output in part) < LONG
    said = [texts(part) for part in outputs]
    assert re.match(r"array\(\[[\d., ]+\]\)", said[0][-1])
    assert "Output()" in said[1]  # the widget of a bar
    assert 0 < float(said[1][-1]) <= 1
    assert re.match(r"\(array\(\['\d', '\d', '\d'\], dtype='<U1'\),\n array\(\[\[", said[2][-1])
    assert re.match(r"\(Ensemble\(\d members of resnet10t, .*\),\n \d\.\d+,\n \d\.\d+\)", said[3][-1])
    assert (done[1] / "moved" / "ensemble.json").is_file()
    assert set(re.findall(r"'(\w+)': \(", said[5][-1])) == {"shift", "few", "head"}
    assert said[6][-1].startswith("TransferEnsemble(")


def test_without_widgets_bars_are_short_text_and_nothing_warns(done):
    _, outputs, *results = done[0]["without widgets"]
    assert max(len(str(result)) for result in results) < 5_000
    said = "".join(texts(outputs))
    assert "install" not in re.sub(r".*TqdmWarning.*", "", said)  # that of tqdm comes with huggingface_hub
    assert "\x1b" not in said
    for fits in (
        "ancestor, member 1",
        "source training, members 1-2",
        "full fine-tuning, member 1",
        "tiny fine-tuning,",
    ):
        assert fits in said
    assert len(str(outputs)) < 5_000


def test_a_mistake_is_one_line(done):
    [[setting], [run]] = done[0]["mistakes"]
    assert setting.traceback == ["SettingError: lr=-1.0: must be above 0 and finite (float32 holds 1e-38 to 1e+38)"]
    assert run.traceback == ["RunError: a worker died"]


GALLERY = {
    "own_photos": {"[:200]": "[:20]", "number < 100": "number < 14", '"image_size": 64': '"image_size": 32'},
    "moving_an_ensemble": {"train=200, validation=200, test=1000": "train=60, validation=30, test=60", "=16": "=8"},
    "comparing_strategies": {
        "few,snapshots,shift": "few,shift",
        "seed=0,1,2": "seed=0 evaluation.diagnostics=false backbone.options.channels=[4,8,8,8]",
        "+experiment=quick": "+experiment=quick dataset.image_size=8 ensemble.size=2 recipe.ancestor.steps=5",
    },
}
"""The notebooks of the gallery, with what is replaced in each to make it small."""


def stored(name):
    """Return the code cells of a notebook of the gallery."""
    notebook = nbformat.read(DOCS / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_gallery_is_these_notebooks():
    assert {path.stem for path in (DOCS / "notebooks").glob("*.ipynb")} == set(GALLERY)


@pytest.mark.parametrize("name", GALLERY)
def test_a_notebook_is_stored_with_the_outputs_of_one_execution(name):
    cells = stored(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not [output for output in outputs if output.output_type == "error"]
    assert max(len(str(output)) for output in outputs) < 80_000  # a figure of 60 kB, as base64
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert 1 <= len(figures) <= 2
    assert "/tmp" not in "".join(text for cell in cells for text in texts(cell.outputs))


def small(name):
    """Return the code of a notebook of the gallery, made small, as it starts in a fresh kernel."""
    return ["%reset -f", *smaller([cell.source for cell in stored(name)], GALLERY[name])]


def test_the_notebooks_run(done):
    for name in GALLERY:
        _, *cells = done[0][name]
        kinds = [{output.output_type for output in outputs} for outputs in cells]
        assert kinds == [{output.output_type for output in cell.outputs} for cell in stored(name)], name
