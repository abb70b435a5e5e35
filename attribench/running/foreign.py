"""Are stored attributions those of a problem? A record that was found may be anybody's."""

from __future__ import annotations

import torch

from ..base.arrays import DamagedError
from ..plugins.method import Attribution
from ..plugins.task import Problem


def check(attributions: dict[str, Attribution], problem: Problem) -> None:
    """Raise DamagedError unless these can be attributions of the problem."""
    test, validation = problem.splits["test"].graphs, problem.splits["validation"].graphs
    first = test.select(torch.arange(min(1, test.num_graphs), device=test.device))
    with problem.gates() as gates:
        widths = [call.width for call in gates.record(first).calls]
    try:
        graphs = {"test": test, "validation": validation}
        if "randomised" in attributions:
            count = test.edge_ptr.tolist().index(attributions["randomised"].scores.shape[1])
            graphs["randomised"] = test.select(torch.arange(count, device=test.device))
        if attributions["test"].hard_mask is None and "validation" not in attributions:
            raise ValueError("expected those of validation graphs, too")
        for name, attribution in attributions.items():
            attribution.check(graphs[name], len(widths))
            for baseline, width in zip(attribution.baselines or (), widths, strict=bool(attribution.baselines)):
                if baseline.shape[-1] not in (1, width):
                    raise ValueError(f"expected baselines of width {width}; got {baseline.shape[-1]}")
    except (KeyError, ValueError) as error:
        raise DamagedError(f"attributions of another problem: {error}") from error
