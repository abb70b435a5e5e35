"""Problems and small graphs of the tasks with a gold mask for every layer, for both of their test files."""

import importlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attribench.model.graphs import GraphBatch
from attribench.plugins.configs import make_config
from attribench.plugins.registry import TASKS
from attribench.plugins.task import Problem, TaskSeeds, Workshop, build_problem, without_cache

NAMES = ("two-hop", "relay", "shared-layers", "neighbour-count", "any-of", "decoy-gates")
TASKS["two-hop"]
layered: Any = importlib.import_module("attribench.tasks._layered")
START, TARGET = 0, 1
RED, BLUE, GREY = range(3)
MARKED, PLAIN, DASHED = range(3)
LINK = 0
COLOURS = 4
MESSAGES_AT_ONCE = 30_000

Edges = dict[tuple[int, int], int]
"""Types by source and target."""


def make_task(name: str, **options: Any) -> Any:
    kind = TASKS[name]
    return kind(make_config(name, kind.Config, options))


def sizes(name: str, depth: int) -> dict[str, int]:
    """Numbers of nodes that leave room for what the task plants."""
    fewest = 3 * depth + 1 if name == "any-of" else max(6, depth + 2)
    return {"depth": depth, "min_nodes": fewest, "max_nodes": fewest + 4}


@cache
def problem(name: str, depth: int, model_seed: int = 0, **options: Any) -> Problem:
    options = {"train": 60, "validation": 60, "test": 120, **sizes(name, depth), **options}
    return build_problem(
        make_task(name, **options), TaskSeeds(0, model_seed), Workshop(torch.device("cpu"), without_cache)
    )


def dense(graphs: Sequence[Edges], num_nodes: Sequence[int], start: Tensor, roles: Tensor) -> Any:
    """Turn edges into ``Drawn``; start and roles are ``(G, N, ...)`` or, the same for all graphs, ``(N, ...)``."""
    most = max(num_nodes)
    rows = [(g, u, v, kind) for g, edges in enumerate(graphs) for (u, v), kind in edges.items()]
    g, u, v, kinds = torch.tensor(rows).T
    types = torch.full((len(graphs), most, most), -1)
    types[g, u, v] = kinds
    start, roles = (x if x.dim() == 3 else x.expand(len(graphs), -1, -1) for x in (start, roles))
    return layered.Drawn(types, start, roles, torch.tensor(num_nodes))


def marks(nodes: int, *positions: int) -> Tensor:
    """Return ``(N, 1)``: 1 at the positions."""
    column = torch.zeros(nodes, 1)
    column[list(positions)] = 1
    return column


def query_roles(nodes: int, x: int = 0, y: int = 1) -> Tensor:
    """Return the roles of neighbour-count's nodes ``(N, 1 + 2 C)``."""
    query = torch.zeros(2 * COLOURS)
    query[[x, COLOURS + y]] = 1
    return torch.cat([marks(nodes, TARGET), query.expand(nodes, -1)], dim=1)


def listing(graphs: GraphBatch, g: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return type and position in the batch of every edge of a graph, by source and target in the graph."""
    edges = range(int(graphs.edge_ptr[g]), int(graphs.edge_ptr[g + 1]))
    ends = (graphs.edge_index[:, edges.start : edges.stop] - graphs.node_ptr[g]).T.tolist()
    kinds = graphs["edge_type"][edges.start : edges.stop].tolist()
    return {(u, v): (kind, e) for (u, v), kind, e in zip(ends, kinds, edges, strict=True)}


def make_batch(task: Any, drawn: Any) -> GraphBatch:
    graphs: GraphBatch = task.batch(drawn, torch.Generator().manual_seed(0), "by hand")
    return graphs


def make_model(task: Any, graphs: GraphBatch) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return task.model(graphs["x"].shape[1] - task.config.chatter).eval()


def path(depth: int) -> list[tuple[int, int]]:
    nodes = [START, *range(2, depth + 1), TARGET]
    return list(pairwise(nodes))


def any_of_levels(depth: int, sufficient: int = 3) -> list[list[int]]:
    nodes = [0, *range(2, depth * sufficient + 1)]
    return [*(nodes[i::depth] for i in range(depth)), [TARGET]]
