"""The cost of a run: entries by phase and member, and their sums."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ensemble_transfer.machine import return_freed_memory


@dataclass(frozen=True)
class Cost:
    """The cost of one piece of work.

    Attributes:
        steps: Optimizer steps.
        examples: Examples in forward passes, each pass counted.
        flops: Floating-point operations, forward and backward, by torch's flop counter; a multiply-add counts two,
            operators without a formula (normalisation, activation) count none.
        seconds: Seconds of the device. Members trained in lockstep share their group's seconds evenly, and groups that
            several processes train at the same time on one device share theirs, so that the members' seconds add up to
            the phase's; on several GPUs they add up to those of all of them.
        cpu_seconds: Processor seconds of the process that did the work; members of a group share them evenly.
        peak_memory_bytes: Highest memory of the phase: the process's resident set on a CPU, torch's allocations on
            a GPU.
        trained_parameters: Number of weights that received gradients.
    """

    steps: int = 0
    examples: int = 0
    flops: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    trained_parameters: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the sum, with the higher of the peaks and of the trained parameters.

        Both operands belong to one member: training the same parameters twice does not make them more.
        """
        return Cost(
            self.steps + other.steps,
            self.examples + other.examples,
            self.flops + other.flops,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            max(self.trained_parameters, other.trained_parameters),
        )


@dataclass(frozen=True)
class FineTuning:
    """The unit of cost: one full fine-tuning of one member by ``recipe.full``.

    Attributes:
        flops: Its floating-point operations.
        seconds: Its seconds of computation on this machine: processor seconds on a CPU, seconds of the device on a GPU.
        on_gpu: Which of the two these are.
    """

    flops: int
    seconds: float
    on_gpu: bool = False

    def time(self, cost: Cost) -> float:
        """Return the seconds of computation of a cost, on the clock of the unit."""
        return cost.seconds if self.on_gpu else cost.cpu_seconds

    def measured(self, cost: Cost) -> dict[str, Any]:
        """Return the fields of a cost by name, and what it is in fine-tunings, by FLOPs and by time."""
        by = {"fine_tunings": cost.flops / self.flops, "fine_tunings_by_time": self.time(cost) / self.seconds}
        return asdict(cost) | by


@dataclass(frozen=True)
class Entry:
    """The cost of one phase for one member.

    Attributes:
        phase: ``full``, ``statistics``, ``probe``, ``tiny``, ``head``, ...
        member: Index of the member that it was spent on; None where it was spent on no single one, as a look at
            validation is.
        cost: What was spent; for a fit from the store, what it cost when it was computed.
        key: The fit's key in the store; None for work that is not stored.
        reused: Whether the fit was found in the store.
        curve: Step, training loss and learning rate at some points of a fit.
    """

    phase: str
    member: int | None
    cost: Cost
    key: str | None = None
    reused: bool = False
    curve: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)


@dataclass(repr=False)
class Ledger:
    """All entries of a transfer, in the order of the work."""

    entries: list[Entry] = field(default_factory=list)

    def __repr__(self) -> str:
        phases = ", ".join(f"{name} {cost.steps} steps" for name, cost in self.by_phase().items())
        total = self.total()
        return f"Ledger({phases or 'empty'}; {total.flops / 1e9:.3g} GFLOPs, {total.seconds:.3g} s)"

    def total(self) -> Cost:
        """Return what was spent on all members."""
        return _over_members(self.entries)

    def learning(self) -> dict[str, dict[str, list[float]]]:
        """Return the learning curves by phase, in the order of the work: ``step``, ``loss``, ``rate``, by point.

        The training loss is the mean over the members that were trained in it. A phase in which members are trained
        again, or for another number of steps, has a number the next time: ``cycle_2``. Numbers have four digits.
        """
        groups: dict[tuple[str, int, tuple[float, ...]], list[Entry]] = {}
        done: Counter[tuple[str, int | None]] = Counter()
        for entry in (entry for entry in self.entries if entry.curve):
            done[place := (entry.phase, entry.member)] += 1
            steps = tuple(step for step, *_ in entry.curve)
            groups.setdefault((entry.phase, done[place], steps), []).append(entry)
        found: dict[str, dict[str, list[float]]] = {}
        met: Counter[str] = Counter()
        for (phase, *_), own in groups.items():
            met[phase] += 1
            points = zip(*(entry.curve for entry in own), strict=True)
            rows = [(at[0][0], sum(loss for _, loss, _ in at) / len(at), at[0][2]) for at in points]
            columns = [[float(f"{value:.4g}") for value in column] for column in zip(*rows, strict=True)]
            name = f"{phase}_{met[phase]}" if met[phase] > 1 else phase
            found[name] = dict(zip(("step", "loss", "rate"), columns, strict=True))
        return found

    def by_phase(self) -> dict[str, Cost]:
        """Return what each phase spent on all members, in the order of the work."""
        phases = dict.fromkeys(entry.phase for entry in self.entries)
        return {name: _over_members([e for e in self.entries if e.phase == name]) for name in phases}

    def of_member(self, member: int) -> Cost:
        """Return what was spent on one member."""
        return _over_members([entry for entry in self.entries if entry.member == member])


def merged(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs of different members, whose trained parameters add up."""
    parts = list(costs)
    return replace(sum(parts, Cost()), trained_parameters=sum(cost.trained_parameters for cost in parts))


def mean_cost(costs: list[Cost]) -> Cost:
    """Return the mean of costs; counts are rounded to whole numbers."""
    means = {name: sum(getattr(cost, name) for cost in costs) / len(costs) for name in asdict(Cost())}
    return Cost(**{name: value if "seconds" in name else round(value) for name, value in means.items()})


def from_plain(fields: Mapping[str, Any]) -> Cost:
    """Return a cost from its fields by name; what else is there, such as ``fine_tunings``, is left out."""
    return Cost(**{name: fields[name] for name in asdict(Cost())})


class Meter:
    """The stopwatch of :func:`measured`: wall seconds, processor seconds and peak memory of a block."""

    seconds = cpu_seconds = 0.0
    peak_memory_bytes = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Meter]:
    """Measure the block; the meter has the numbers when the block has ended."""
    meter = Meter()
    _reset_peak(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield meter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    meter.seconds, meter.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    meter.peak_memory_bytes = _peak(device)


def _over_members(entries: list[Entry]) -> Cost:
    by_member: dict[int | None, Cost] = {}
    for entry in entries:
        by_member[entry.member] = by_member.get(entry.member, Cost()) + entry.cost
    return merged(by_member.values())


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # the statistics exist only then
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()  # which would count as this block's
        with suppress(OSError):  # not Linux, or not allowed in this container: the mark then is that of the process
            Path("/proc/self/clear_refs").write_text("5")  # forget the resident set's high-water mark


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
