"""Are splits, labels, gold and precision what a problem needs, as its task built it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.seeds import generator
from ..model.graph_checks import check_batch
from ..model.graphs import GraphBatch

if TYPE_CHECKING:
    from ..plugins.task import Problem, Split


SPLITS = ("train", "validation", "test")


MOST = 32
"""Graphs of a split on which isolation, invariance, reach and gradients are tried."""


TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How far a graph's output alone may be from that in a batch, of the largest absolute output."""


def check_splits(problem: Problem) -> None:
    """Raise UserError unless there are the three splits, with graphs and messages in each."""
    missing = [name for name in SPLITS if name not in problem.splits]
    if missing:
        raise UserError(
            f"expected splits {', '.join(SPLITS)}; got {', '.join(problem.splits) or 'none'}: add {', '.join(missing)}"
        )
    for name in SPLITS:
        graphs = problem.splits[name].graphs
        if not isinstance(graphs, GraphBatch):
            raise UserError(f"split {name!r}: expected a GraphBatch; got {type(graphs).__name__}: use from_data_list")
        if not isinstance(problem.splits[name].labels, Tensor):
            got = type(problem.splits[name].labels).__name__
            raise UserError(f"split {name!r}: expected labels as a tensor; got {got}: use torch.as_tensor(labels)")
        try:
            check_batch(graphs)  # once more: it may have been changed since
        except UserError as error:
            raise UserError(f"split {name!r}: {error}") from None
        if not graphs.num_graphs:
            raise UserError(f"split {name!r}: expected at least one graph; got none: make it larger")
        if not graphs.num_edges:
            raise UserError(
                f"split {name!r}: expected at least one edge; got none in all of its graphs ({graphs.num_graphs}): "
                "choose graphs that have edges, or nodes that have neighbours"
            )


def check_precision(problem: Problem) -> None:
    """Raise UserError for weights or tensors of graphs in half precision."""
    for name, value in [*problem.model.named_parameters(), *problem.model.named_buffers()]:
        _refuse_half(f"the model's {name!r}", value)
    for split in SPLITS:
        graphs = problem.splits[split].graphs
        for level in (graphs.node, graphs.edge, graphs.graph):
            for name, value in level.items():
                _refuse_half(f"{name!r} of split {split!r}", value)


def _refuse_half(what: str, value: Tensor) -> None:
    if value.is_floating_point() and value.dtype not in TOLERANCES:
        raise UserError(
            f"expected float32 or float64; {what} is {value.dtype}, too coarse for gates and their gradients: use "
            "model.float() and graphs.to(torch.float32)"
        )


def sample(graphs: GraphBatch) -> GraphBatch:
    """Return at most 32 graphs: the first, the last, the smallest, the largest, and others at random."""
    count, sizes = graphs.num_graphs, graphs.num_edges_per_graph
    with_edges = torch.where(sizes > 0, sizes, sizes.max() + 1)  # of the smallest, one with and one without messages
    chosen = [0, count - 1, int(sizes.argmin()), int(with_edges.argmin()), int(sizes.argmax())]
    chosen += torch.randperm(count, generator=generator("examination"))[:MOST].tolist()
    index = sorted(list(dict.fromkeys(chosen))[:MOST])
    return graphs.select(torch.tensor(index, device=graphs.device))


def check_gold(problem: Problem, num_layers: int) -> None:
    """Raise UserError unless gold is bool, of the shape of messages, of one kind, and of validation graphs, too."""
    for name in SPLITS:
        split: Split = problem.splits[name]
        gold, edges = split.gold, split.graphs.num_edges
        if gold is None:
            continue
        if not isinstance(gold, Tensor) or gold.dtype != torch.bool:
            got = gold.dtype if isinstance(gold, Tensor) else type(gold).__name__
            raise UserError(f"split {name!r}: expected bool gold; got {got}: compare with > 0")
        if tuple(gold.shape) not in ((num_layers, edges), (1, edges)):
            raise UserError(
                f"split {name!r}: expected gold of shape {(num_layers, edges)}, or {(1, edges)} where only the union "
                f"of the layers is known; got {tuple(gold.shape)}"
            )
    shapes = {len(gold) for name in SPLITS if (gold := problem.splits[name].gold) is not None}
    if len(shapes) > 1:
        raise UserError(
            f"expected gold of one kind; got ({num_layers}, E) in one split and (1, E) in another: give every layer's "
            "for all, or the union of the layers (gold.any(0, keepdim=True))"
        )
    with_gold = [name for name in SPLITS if problem.splits[name].gold is not None]
    if "test" in with_gold and "validation" not in with_gold:
        raise UserError("expected gold of the validation split, too, by which thresholds are chosen; got none")
