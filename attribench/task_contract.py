"""The contract that every task keeps, checked on the problem that its quick settings build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .integrity import differences, fingerprint
from .settings import make_config
from .task import SPLITS, Problem, Task, TaskSeeds, Workshop, build_problem, without_cache

Check = Callable[[], str | None]
TOLERANCE = 1e-8
"""Largest difference in float64 between a graph alone and among others."""


class TaskContract:
    """The checks of one task, built with its quick settings."""

    def __init__(self, task: type[Task]) -> None:
        self.kind = task
        self._problems: dict[TaskSeeds, Problem] = {}

    def checks(self) -> list[tuple[str, Check]]:
        """Return titles and checks."""
        return [
            ("splits, labels and gold have matching shapes", self.shapes),
            ("equal seeds give the same data and the same model", self.determinism),
            ("the data seed changes the data, the model seed only the model", self.seeds),
            ("graphs keep distinct keys over all splits", self.keys),
            ("the model's messages can be gated, and it is left as found", self.gates),
            ("a graph alone gives the same output as in a batch", self.batch_invariance),
        ]

    def build(self, seeds: TaskSeeds) -> Problem:
        """Build a problem, once for all checks."""
        if seeds not in self._problems:
            self._problems[seeds] = self._new(seeds)
        return self._problems[seeds]

    def _new(self, seeds: TaskSeeds) -> Problem:
        config = make_config(self.kind.name, self.kind.Config, self.kind.quick)
        return build_problem(self.kind(config), seeds, Workshop(torch.device("cpu"), without_cache))

    def shapes(self) -> str | None:
        """Compare the splits with the model's number of layers."""
        problem = self.build(TaskSeeds(0, 0))
        num_layers = problem.subject().num_layers
        for name in SPLITS:
            split = problem.splits[name]
            with torch.no_grad():
                units = len(problem.output.predict(problem.model(split.graphs)))
            if len(split.labels) != units:
                return f"{name}: expected {units} labels; got {len(split.labels)}"
            gold = split.gold
            shapes = [(num_layers, split.graphs.num_edges), (1, split.graphs.num_edges)]
            if gold is not None and (gold.dtype != torch.bool or tuple(gold.shape) not in shapes):
                return f"{name}: expected bool gold of shape {shapes[0]} or {shapes[1]}; got {tuple(gold.shape)}"
        return None

    def determinism(self) -> str | None:
        """Build twice under different states of the global generator."""
        first = self.build(TaskSeeds(0, 0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            second = self._new(TaskSeeds(0, 0))
        if not _same_data(first, second):
            return "the data differ"
        return None if _same_model(first, second) else "the models differ"

    def seeds(self) -> str | None:
        """Change one seed at a time."""
        base = self.build(TaskSeeds(0, 0))
        if _same_data(base, self.build(TaskSeeds(1, 0))):
            return "another data seed gave the same data"
        if not _same_data(base, self.build(TaskSeeds(0, 1))):
            return "another model seed gave other data"
        if _same_model(base, self.build(TaskSeeds(0, 1))):
            return "another model seed gave the same model"
        return None

    def keys(self) -> str | None:
        """No graph shares its key, and so its noise, with another."""
        keys = torch.cat([split.graphs.graph_key for split in self.build(TaskSeeds(0, 0)).splits.values()])
        return None if keys.unique().numel() == keys.numel() else "two graphs have the same key"

    def gates(self) -> str | None:
        """Record and gate once."""
        problem = self.build(TaskSeeds(0, 0))
        graphs = problem.splits["validation"].graphs
        before = fingerprint(problem.model, graphs)
        problem.subject()
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


def _same_data(a: Problem, b: Problem) -> bool:
    pairs: list[tuple[Any, Any]] = []
    for name in SPLITS:
        x, y = a.splits[name], b.splits[name]
        pairs += [(x.labels, y.labels), (x.graphs.edge_index, y.graphs.edge_index)]
        for level in ("node", "edge", "graph"):
            mine, other = getattr(x.graphs, level), getattr(y.graphs, level)
            pairs += [(mine[key], other[key]) for key in mine]
    return all(torch.equal(x, y) for x, y in pairs)


def _same_model(a: Problem, b: Problem) -> bool:
    mine, other = a.model.state_dict(), b.model.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
