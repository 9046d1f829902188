"""A task under the user's own ``pl.Trainer``: a LightningDataModule of its three splits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ensemble_transfer.errors import require
from ensemble_transfer.lightning.module import member_seed
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.chosen import ChosenImages, parts
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]
Loader = DataLoader[Batch]


class TaskDataModule(pl.LightningDataModule):
    """Batches of a task: images (batch, C, H, W) uint8 and labels (batch,) int64.

    Training batches depend on the seed and the step alone, whatever else draws random numbers. Each epoch is a
    permutation; examples left after its last whole batch are dropped, since BatchNorm cannot train on a batch of one.

    Args:
        task: The task.
        recipe: Its batch size and augmentation are those of the training batches.
        members: Number of members, where each is to see the images in an order of its own: training batches are then
            (members, batch, C, H, W) and (members, batch). None for one order.
        seed: Of orders and augmentations.
        eval_batch_size: Examples in a batch of the validation and test split.
        num_workers: Processes that load batches. Tasks are in memory, so that 0 is mostly fastest.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        members: int | None = None,
        seed: int = 0,
        eval_batch_size: int = 256,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        require(len(task.train) > 1, "train", len(task.train), "a fit needs at least 2 examples")
        require(members is None or members > 0, "members", members, "must be above 0, or None for one order")
        require(eval_batch_size > 0, "eval_batch_size", eval_batch_size, "must be above 0")
        self.task, self.recipe = task, recipe
        self._members, self._seed = members, seed
        self._eval_batch_size, self._num_workers = eval_batch_size, num_workers
        self.save_hyperparameters({"task": task.name})

    def __repr__(self) -> str:
        return f"TaskDataModule({self.task!r})"

    def train_dataloader(self) -> Loader:
        """Return the training batches of the epoch that the trainer has come to; without a trainer, of the first."""
        data, recipe = self.task.train, self.recipe
        seeds = [member_seed(self._seed, member) for member in range(self._members or 0)]
        seeds = seeds or [derive(self._seed, "members")]
        batches = Batches(data.images, data.labels, recipe.batch_size, seeds, recipe.augment)
        steps = _Steps(len(data) // batches.batch_size, self._done)
        return _Resumable(
            batches, sampler=steps, collate_fn=_of_one if self._members is None else None, **self._loading
        )

    def val_dataloader(self) -> Loader:
        """Return the validation split, in order."""
        return self._in_order(self.task.validation)

    def test_dataloader(self) -> Loader:
        """Return the test split, in order; nothing else reads it."""
        return self._in_order(self.task.test)

    predict_dataloader = test_dataloader

    def _done(self) -> int:
        """Return how many batches the fit has trained on."""
        if self.trainer is None:
            return 0
        done: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return done

    def _in_order(self, split: Split) -> Loader:
        pairs = (parts(of_all, self._eval_batch_size) for of_all in (split.images, split.labels))
        batches: Any = [*zip(*pairs, strict=True)]  # a list is a dataset
        return DataLoader(batches, collate_fn=_read, **self._loading)

    @property
    def _loading(self) -> dict[str, Any]:
        """Arguments that all loaders have: a GPU reads batches from pinned memory, for which nobody waits."""
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"batch_size": None, "num_workers": self._num_workers, "pin_memory": on_gpu}


def _read(batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  # images may be a tensor or chosen ones
    """Return a batch whose images are in memory: what is read where it is used cannot be sent to a device."""
    images, labels = batch
    return images.read() if isinstance(images, ChosenImages) else images, labels


class _Steps(Sampler[int]):
    """The steps of an epoch, from the one that the fit has come to, also after a checkpoint.

    Lightning starts an interrupted epoch anew, and the sampler before it says which epoch it is. So the fit's own count
    of batches decides.
    """

    def __init__(self, steps: int, done: Callable[[], int]) -> None:
        self._steps, self._done = steps, done

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[int]:
        start = self._done()
        return iter(range(start, start + self._steps))


class _Resumable(DataLoader[Batch]):
    """A loader that goes on inside an epoch: its sampler knows where, so that a checkpoint need not say it."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the fit's count of batches is in every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


def _of_one(batch: Any) -> Batch:  # noqa: ANN401  # as DataLoader wants it
    """Return a batch that all members share, without their dimension."""
    return batch[0][0], batch[1][0]
