# %% [markdown]
# # Transfer an ensemble in Python
#
# Four small networks know 8x8 scans of digits (scikit-learn) and are to read MNIST, of which 200 labels are at hand.
# Everything here is real data that installed packages carry; it takes well under a minute on one core.
# Run it as it is, or open it as a notebook (VS Code, Jupytext).

# %%
import tempfile
from pathlib import Path

from sklearn.datasets import load_digits

from ensemble_transfer import (
    Backbone,
    Calibration,
    Ensemble,
    EnsembleSettings,
    Fitter,
    MnistSample,
    Recipe,
    Recipes,
    Shift,
    Store,
    Tiny,
    TrainerSettings,
    open_saved,
    task_from_arrays,
    train_source,
)
from ensemble_transfer.inference.predict import Answers, choose_threshold, predict_rows
from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.transfer.base import transfer_ensemble

# %% [markdown]
# ## Two tasks
#
# The source comes from arrays, as your own data might; the target is one of the sources that know how to load
# themselves. Both get images of 16 pixels, gray.

# %%
scans = load_digits()
source = task_from_arrays("digits", scans.images / 16, scans.target, test=300, image_size=16)
target = MnistSample(train=200, validation=200, test=500).load(image_size=16, channels=1)

# %% [markdown]
# ## A source ensemble
#
# Members of a shared lineage: one ancestor, then each goes on alone. With a store, nothing is trained twice: run this
# cell again and it answers at once.

# %%
folder = Path(tempfile.mkdtemp())
fitter = Fitter(TrainerSettings(accelerator="cpu", threads=1, progress=False), Store(folder / "store"))
recipes = Recipes(
    ancestor=Recipe(steps=80),
    source=Recipe(steps=20),
    full=Recipe(steps=80, lr=1e-2),
    tiny=Recipe(steps=10, lr=7e-3),
    probe=Recipe(steps=50, lr=1e-2),
)
backbone = Backbone("resnet10t", {"channels": [8, 16, 32, 64], "stem_width": 8, "output_stride": 8})
ensemble, _ = train_source(EnsembleSettings(size=4), backbone, source, seed=0, recipes=recipes, fitter=fitter)
known = evaluate(ensemble.predict(source.test.images), source.test.labels)
print(f"source ensemble: accuracy {known['ensemble/accuracy']:.3f} on digits")

# %% [markdown]
# ## Move it, and move it without the shift
#
# `Shift` fine-tunes one donor fully, moves the other encoders as the donor's moved and gives each a tiny fine-tuning;
# `Tiny` is the control: the same tiny fine-tuning, without the shift.

# %%
results = {s.name: transfer_ensemble(s, ensemble, target, 0, recipes, fitter) for s in (Shift(donors=1), Tiny())}
for name, result in results.items():
    held_out = result.ensemble.predict(target.validation.images), target.validation.labels
    metrics = evaluate(result.ensemble.predict(target.test.images), target.test.labels, validation=held_out)
    print(
        f"{name:>5}: accuracy {metrics['ensemble/accuracy']:.3f}, calibrated NLL {metrics['calibrated/nll']:.3f}, "
        f"{result.ledger.total().flops / 1e9:.1f} GFLOPs, one more member {result.marginal().flops / 1e9:.1f}"
    )

# %% [markdown]
# ## Save, load, predict
#
# A saved ensemble is a folder with a card to read; a calibration beside it holds the temperature and what thresholds
# are chosen on. `open_saved` takes a run's folder, too.

# %%
moved: Ensemble = results["shift"].ensemble
moved.save(folder / "moved")
validation = moved.predict(target.validation.images), target.validation.labels
Calibration.fit(*validation).save(folder / "moved", moved.fingerprint)

saved = open_saved(folder / "moved")
threshold, about = choose_threshold(saved, risk=None, coverage=0.8)
rows = predict_rows(saved, target.test.images, Answers(threshold))
truth = [target.classes[label] for label in target.test.labels]
answered = [row["label"] == label for row, label in zip(rows, truth, strict=True) if not row["abstain"]]
print(about)
print(f"answered {len(answered)} of {len(rows)} test images, {sum(answered) / len(answered):.3f} of them right")
print("the first:", {name: round(v, 3) if isinstance(v, float) else v for name, v in rows[0].items()})
