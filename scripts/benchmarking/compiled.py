"""A training step of the default net by torch.compile against the eager one: what it saves, and when it is earned back.

It needs a C++ compiler. Compiling starts from an empty cache, as on a machine that has not run this before.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarking.measure import Options, Result, digits, interleaved, medians, network, ratios, settings
from ensemble_transfer.training.trained_part import loaded


def run(options: Options) -> Result:
    """Time steps of both, and the first compiled step, which compiles."""
    settings(options)
    eager, net = stepper(member()), member()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        compiled = stepper(net if options.quick else torch.compile(net))  # type: ignore[arg-type]
        started = time.perf_counter()
        compiled(1)
        compiling = time.perf_counter() - started
        eager(1)
        steps, repeats = (1, 1) if options.quick else (30, 7)
        calls: dict[str, Callable[[], object]] = {"eager": lambda: eager(steps), "compiled": lambda: compiled(steps)}
        times = interleaved(calls, repeats)
    found = ratios(times, "compiled", "eager") | medians(times)
    saved = (float(found["eager, wall s"]) - float(found["compiled, wall s"])) / steps
    earned = compiling / saved if saved > 0 else float("inf")
    return found | {"steps": steps, "first compiled step, wall s": compiling, "earned back after steps": earned}


def member() -> nn.Module:
    """Return the default net, ready to be trained."""
    architecture = network()
    return loaded(architecture, architecture.initial(0)).train()


def stepper(net: nn.Module) -> Callable[[int], None]:
    """Return a function that takes so many training steps."""
    data = digits(32)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, foreach=True)

    def take(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(net(data.images), data.labels).backward()
            optimizer.step()

    return take
