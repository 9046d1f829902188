"""Transfer ensembles of deep networks to a new task.

Public API: ``from ensemble_transfer import Backbone, Shift, train_source``. A name is imported at its first use, so
that ``import ensemble_transfer`` costs nothing. ``ensemble_transfer.evaluate`` is a command; the function that computes
the metrics is ``evaluate`` of :mod:`ensemble_transfer.metrics.evaluate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble_transfer.errors import SettingError as SettingError
    from ensemble_transfer.inference.calibration import Calibration as Calibration
    from ensemble_transfer.inference.saved import SavedEnsemble as SavedEnsemble
    from ensemble_transfer.inference.saved import open_saved as open_saved
    from ensemble_transfer.lightning.data_module import TaskDataModule as TaskDataModule
    from ensemble_transfer.lightning.module import EnsembleModule as EnsembleModule
    from ensemble_transfer.models.backbone import Architecture as Architecture
    from ensemble_transfer.models.backbone import Backbone as Backbone
    from ensemble_transfer.models.ensemble import Ensemble as Ensemble
    from ensemble_transfer.report.record import Record as Record
    from ensemble_transfer.report.record import as_frame as as_frame
    from ensemble_transfer.report.record import read_records as read_records
    from ensemble_transfer.runs.estimator import TransferEnsemble as TransferEnsemble
    from ensemble_transfer.source.alone import members_alone as members_alone
    from ensemble_transfer.source.train import EnsembleSettings as EnsembleSettings
    from ensemble_transfer.source.train import train_source as train_source
    from ensemble_transfer.tasks.arrays import task_from_arrays as task_from_arrays
    from ensemble_transfer.tasks.embedded import Digits as Digits
    from ensemble_transfer.tasks.embedded import MnistSample as MnistSample
    from ensemble_transfer.tasks.folder import ImageFolder as ImageFolder
    from ensemble_transfer.tasks.hugging_face import HuggingFace as HuggingFace
    from ensemble_transfer.tasks.image_csv import ImageCsv as ImageCsv
    from ensemble_transfer.tasks.loader import Collection as Collection
    from ensemble_transfer.tasks.loader import TaskLoader as TaskLoader
    from ensemble_transfer.tasks.npz import Npz as Npz
    from ensemble_transfer.tasks.task import Split as Split
    from ensemble_transfer.tasks.task import Task as Task
    from ensemble_transfer.tasks.torchvision_sets import TorchvisionDataset as TorchvisionDataset
    from ensemble_transfer.training.cost import Cost as Cost
    from ensemble_transfer.training.cost import Ledger as Ledger
    from ensemble_transfer.training.fit import Fitter as Fitter
    from ensemble_transfer.training.recipe import Recipe as Recipe
    from ensemble_transfer.training.recipe import Recipes as Recipes
    from ensemble_transfer.training.settings import TrainerSettings as TrainerSettings
    from ensemble_transfer.training.store import Store as Store
    from ensemble_transfer.transfer.base import Strategy as Strategy
    from ensemble_transfer.transfer.base import TransferResult as TransferResult
    from ensemble_transfer.transfer.base import Workbench as Workbench
    from ensemble_transfer.transfer.base import transfer_ensemble as transfer_ensemble
    from ensemble_transfer.transfer.prices import Prices as Prices
    from ensemble_transfer.transfer.shift.vector import ShiftVector as ShiftVector
    from ensemble_transfer.transfer.strategies.auto import Auto as Auto
    from ensemble_transfer.transfer.strategies.few import Few as Few
    from ensemble_transfer.transfer.strategies.full import Full as Full
    from ensemble_transfer.transfer.strategies.head import HeadOnly as HeadOnly
    from ensemble_transfer.transfer.strategies.matched import Matched as Matched
    from ensemble_transfer.transfer.strategies.scratch import Scratch as Scratch
    from ensemble_transfer.transfer.strategies.shift import Shift as Shift
    from ensemble_transfer.transfer.strategies.snapshots import Snapshots as Snapshots
    from ensemble_transfer.transfer.strategies.star import Star as Star
    from ensemble_transfer.transfer.strategies.tiny import Tiny as Tiny
    from ensemble_transfer.transfer.strategies.turns import Turns as Turns

__version__ = "0.1.0"

_MODULES = {
    "Architecture": "models.backbone",
    "Auto": "transfer.strategies.auto",
    "Backbone": "models.backbone",
    "Calibration": "inference.calibration",
    "Collection": "tasks.loader",
    "Cost": "training.cost",
    "Digits": "tasks.embedded",
    "Ensemble": "models.ensemble",
    "EnsembleModule": "lightning.module",
    "EnsembleSettings": "source.train",
    "Few": "transfer.strategies.few",
    "Fitter": "training.fit",
    "Full": "transfer.strategies.full",
    "HeadOnly": "transfer.strategies.head",
    "HuggingFace": "tasks.hugging_face",
    "ImageCsv": "tasks.image_csv",
    "ImageFolder": "tasks.folder",
    "Ledger": "training.cost",
    "Matched": "transfer.strategies.matched",
    "MnistSample": "tasks.embedded",
    "Npz": "tasks.npz",
    "Prices": "transfer.prices",
    "Recipe": "training.recipe",
    "Recipes": "training.recipe",
    "Record": "report.record",
    "SavedEnsemble": "inference.saved",
    "Scratch": "transfer.strategies.scratch",
    "SettingError": "errors",
    "Shift": "transfer.strategies.shift",
    "ShiftVector": "transfer.shift.vector",
    "Snapshots": "transfer.strategies.snapshots",
    "Split": "tasks.task",
    "Star": "transfer.strategies.star",
    "Store": "training.store",
    "Strategy": "transfer.base",
    "Task": "tasks.task",
    "TaskDataModule": "lightning.data_module",
    "TaskLoader": "tasks.loader",
    "Tiny": "transfer.strategies.tiny",
    "TorchvisionDataset": "tasks.torchvision_sets",
    "TrainerSettings": "training.settings",
    "TransferEnsemble": "runs.estimator",
    "TransferResult": "transfer.base",
    "Turns": "transfer.strategies.turns",
    "Workbench": "transfer.base",
    "as_frame": "report.record",
    "members_alone": "source.alone",
    "open_saved": "inference.saved",
    "read_records": "report.record",
    "task_from_arrays": "tasks.arrays",
    "train_source": "source.train",
    "transfer_ensemble": "transfer.base",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
