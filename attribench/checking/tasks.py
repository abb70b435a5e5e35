"""The contract that every task keeps, checked on the problem that its quick settings build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..model.graphs import LEVELS
from ..model.integrity import differences, fingerprint
from ..plugins.configs import make_config
from ..plugins.task import SPLITS, Problem, Task, TaskSeeds, Workshop, build_problem, without_cache

Check = Callable[[], str | None]
TOLERANCE = 1e-8
"""Largest difference in float64 between a graph alone and among others."""


class TaskContract:
    """The checks of one task, built with its quick settings and further options."""

    def __init__(self, task: type[Task], **options: Any) -> None:
        self.kind = task
        self.options = {**task.quick, **options}
        self._problems: dict[TaskSeeds, Problem] = {}

    def checks(self) -> list[tuple[str, Check]]:
        """Return titles and checks."""
        return [
            ("splits, labels, gold and outputs are sound, and the model can be gated exactly", self.soundness),
            ("equal seeds give the same data and the same model", self.determinism),
            ("the data seed changes the data, the model seed only the model", self.seeds),
            ("graphs keep distinct keys over all splits", self.keys),
            ("the model is left as found", self.left_as_found),
            ("a graph alone gives the same output as in a batch", self.batch_invariance),
        ]

    def build(self, seeds: TaskSeeds) -> Problem:
        """Build a problem, once for all checks."""
        if seeds not in self._problems:
            self._problems[seeds] = self._new(seeds)
        return self._problems[seeds]

    def _new(self, seeds: TaskSeeds) -> Problem:
        config = make_config(self.kind.name, self.kind.Config, self.options)
        return build_problem(self.kind(config), seeds, Workshop(torch.device("cpu"), without_cache))

    def soundness(self) -> str | None:
        """Examine the problem, as `run` does before any method sees it."""
        _ = self.build(TaskSeeds(0, 0)).findings
        return None

    def determinism(self) -> str | None:
        """Build twice under different states of the global generator."""
        first = self.build(TaskSeeds(0, 0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            second = self._new(TaskSeeds(0, 0))
        return _data_difference(first, second) or _model_difference(first, second)

    def seeds(self) -> str | None:
        """Change one seed at a time."""
        base = self.build(TaskSeeds(0, 0))
        if _data_difference(base, self.build(TaskSeeds(1, 0))) is None:
            return "another data seed gave the same data"
        found = _data_difference(base, self.build(TaskSeeds(0, 1)))
        if found is not None:
            return f"another model seed gave other data: {found}"
        if _model_difference(base, self.build(TaskSeeds(0, 1))) is None:
            return "another model seed gave the same model"
        return None

    def keys(self) -> str | None:
        """No graph shares its key, and so its noise, with another."""
        keys = torch.cat([split.graphs.graph_key for split in self.build(TaskSeeds(0, 0)).splits.values()])
        return None if keys.unique().numel() == keys.numel() else "two graphs have the same key"

    def left_as_found(self) -> str | None:
        """Record and gate once."""
        problem = self.build(TaskSeeds(0, 0))
        graphs = problem.splits["validation"].graphs
        before = fingerprint(problem.model, graphs)
        with problem.gates() as gates, torch.no_grad():
            recording = gates.record(graphs)
            recording.forward(recording.ones() * 0.5)
        changed = differences(before, fingerprint(problem.model, graphs))
        return f"changed: {', '.join(changed)}" if changed else None

    def batch_invariance(self) -> str | None:
        """Run the first test graph alone, in float64."""
        problem = self._new(TaskSeeds(0, 0))
        graphs = problem.splits["test"].graphs.to(torch.float64)
        model = problem.model.double().eval()
        with torch.no_grad():
            alone = model(graphs.select(torch.tensor([0])))
            gap = float((model(graphs)[: len(alone)] - alone).abs().max())
        return None if gap <= TOLERANCE else f"outputs differ by {gap:.3g}"


def _data_difference(a: Problem, b: Problem) -> str | None:
    """Name the first split and tensor that differs."""
    for name in SPLITS:
        x, y = a.splits[name], b.splits[name]
        pairs: dict[str, tuple[Any, Any]] = {
            "labels": (x.labels, y.labels),
            "edge_index": (x.graphs.edge_index, y.graphs.edge_index),
        }
        for level in LEVELS:
            mine, other = getattr(x.graphs, level), getattr(y.graphs, level)
            pairs |= {f"{level} tensor {key!r}": (value, other.get(key)) for key, value in mine.items()}
        for what, (first, second) in pairs.items():
            if second is None or not torch.equal(first, second):
                return f"{what} of split {name!r} differ" if what == "labels" else f"{what} of split {name!r} differs"
    return None


def _model_difference(a: Problem, b: Problem) -> str | None:
    """Name the first tensor that differs."""
    mine, other = a.model.state_dict(), b.model.state_dict()
    for name in mine.keys() | other.keys():
        if name not in mine or name not in other or not torch.equal(mine[name], other[name]):
            return f"the model's {name!r} differs"
    return None
