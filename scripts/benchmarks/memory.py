"""Peak memory of a fit beyond the imports, by members and executor, each in a process of its own.

Aim: 32 members of the default network in less than 2 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys

from measure import Options, Result, digits, fitter, network, resident, starts, under

from ensemble_transfer.training.cost import measured
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec


def run(options: Options) -> Result:
    """Measure members in groups, and compare with the estimate that sizes groups."""
    members = (1, 2) if options.quick else (1, 8, 32)
    found: Result = {}
    for executor in ("loop", "vectorised"):
        one: dict[str, float] = {}
        for count in members:
            command = [sys.executable, __file__, executor, str(count), str(options.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            found |= under(f"M={count}, {executor}", {"peak MB": result["peak"], "estimated MB": result["estimate"]})
            one = one or result
        added = (result["peak"] - one["peak"]) / (count - 1)
        found |= under(executor, {"MB a further member": added})
    return found


def child(executor: str, members: int, threads: int) -> dict[str, float]:
    """Fit members and return the growth of memory, and what was estimated, in MB."""
    architecture, data = network(), digits(500)
    ours = fitter(Options(threads=threads), executor=executor, group_size=members)
    device = ours.settings.device
    ours.fit(network(8), starts(network(8), 1), digits(50, 8), Recipe(1), "warm")  # what torch loads at the first step
    before = 0 if device.type == "cuda" else resident()
    with measured(device) as meter:
        ours.fit(architecture, starts(architecture, members), data, Recipe(3), "benchmark")
    held, graph = FitSpec(architecture, data, Recipe(3), "").need()
    estimate = members * held + graph * (members if executor == "vectorised" else 1)
    return {"peak": (meter.peak_memory_bytes - before) / 1e6, "estimate": estimate / 1e6}


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
