"""Create a W&B workspace for a study: accuracy against compute, diversity, learning curves and cost by strategy.

    pip install wandb-workspaces
    python scripts/evidence/wandb_workspace.py --entity TEAM --project ensemble_transfer
    python scripts/evidence/wandb_workspace.py --entity TEAM --project ensemble_transfer --dry-run

It prints the address of the new workspace. With --dry-run it prints the JSON and needs no key.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

ACCURACY = "target/test/ensemble/accuracy"
DIVERSITY = "target/test/diversity"
STRATEGY = "strategy_name"
PHASES = ("full", "cycle", "pilot", "choice", "scale search", "probe", "statistics", "tiny", "head")


def main(arguments: list[str] | None = None) -> int:
    """Save or print the workspace; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="team or user")
    parser.add_argument("--project", default="ensemble_transfer", help="default %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the JSON and send nothing")
    chosen = parser.parse_args(arguments)
    try:
        made = workspace(chosen.entity, chosen.project)
    except ImportError:
        print("error: wandb-workspaces is missing; pip install wandb-workspaces", file=sys.stderr)
        return 2
    if chosen.dry_run:
        print(json.dumps(plain(made), indent=2))
        return 0
    print(made.save().url)
    return 0


def workspace(entity: str, project: str) -> Workspace:
    """Return the workspace, without sending anything."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    def section(name: str, *charts: Any) -> workspaces.Section:  # noqa: ANN401
        return workspaces.Section(name=name, panels=list(charts), is_open=True)

    def bars(title: str, *metrics: str) -> panels.BarPlot:
        chosen = [panels.SummaryMetric(metric) for metric in metrics]
        return panels.BarPlot(title=title, metrics=chosen, groupby=panels.Config(STRATEGY), groupby_aggfunc="mean")

    def against_compute(title: str, metric: str) -> panels.ScatterPlot:
        x, y = panels.SummaryMetric("cost/total/flops"), panels.SummaryMetric(metric)
        return panels.ScatterPlot(title=title, x=x, y=y, log_x=True)

    def curves(phase: str) -> panels.LinePlot:
        pattern = rf"^{phase}/loss/member_\d+$"
        return panels.LinePlot(title=f"{phase}: loss by member", x=f"{phase}/step", metric_regex=pattern)

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="Ensemble transfer",
        sections=[
            section(
                "Accuracy against compute",
                against_compute("Ensemble accuracy against FLOPs", ACCURACY),
                against_compute("Ensemble NLL against FLOPs", "target/test/ensemble/nll"),
            ),
            section(
                "Diversity by strategy",
                bars("Disagreement", f"{DIVERSITY}/disagreement"),
                bars("Normalised disagreement", f"{DIVERSITY}/disagreement_normalised"),
            ),
            section("Learning curves by member", *map(curves, ("source", "full", "tiny"))),
            section(
                "Cost by phase",
                bars("FLOPs by phase", *(f"cost/phase/{phase}/flops" for phase in PHASES)),
                bars("Seconds by phase", *(f"cost/phase/{phase}/seconds" for phase in PHASES)),
            ),
        ],
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config(STRATEGY)]),
    )


def plain(made: Workspace) -> dict[str, Any]:
    """Return the workspace as the plain data that W&B receives."""
    data: dict[str, Any] = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return data


if __name__ == "__main__":
    sys.exit(main())
