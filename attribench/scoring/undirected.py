"""Scores over undirected edges, as other papers report them: pairs of nodes, found in whichever direction and layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.graphs import GraphBatch
from .gold import precision_recall_f1


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of undirected edges per graph, ``(G,)`` int64 each.

    Args:
        true_positive: found, and gold.
        found: retained in either direction in any layer.
        gold: gold in either direction in any layer.
        pairs: all.
    """

    true_positive: Tensor
    found: Tensor
    gold: Tensor
    pairs: Tensor

    def per_graph(self) -> dict[str, np.ndarray]:
        """Return precision, recall and F1 of every graph ``(G,)``; what is empty counts as for messages."""
        return self._figures(lambda x: x)

    def micro(self) -> dict[str, float]:
        """Return precision, recall and F1 over the pairs of all graphs."""
        return {name: float(value) for name, value in self._figures(torch.sum).items()}

    def macro(self) -> dict[str, float]:
        """Return the means over graphs of precision, recall and F1."""
        return {name: float(value.mean()) for name, value in self.per_graph().items()}

    def _figures(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray]:
        counts = (reduce(x).cpu().numpy() for x in (self.true_positive, self.found, self.gold))
        return dict(zip(("precision", "recall", "f1"), precision_recall_f1(*counts), strict=True))


def node_pairs(graphs: GraphBatch) -> tuple[Tensor, Tensor]:
    """Return the undirected edge ``(E,)`` of every edge, numbered from 0, and the graph ``(P,)`` of each of these P.

    (u, v) and (v, u) are one, and so are parallel edges, of whatever type; a self-loop is one by itself. Nodes are
    numbered over the whole batch, so that pairs of different graphs differ.
    """
    low, high = graphs.edge_index.amin(0), graphs.edge_index.amax(0)
    keys, pair = torch.unique(low * graphs.num_nodes + high, return_inverse=True)
    return pair, graphs.batch[keys // max(1, graphs.num_nodes)]


def pair_counts(mask: Tensor, gold: Tensor, graphs: GraphBatch) -> PairCounts:
    """Count the undirected edges that are found and that are gold; no masked pass.

    Where all edges run both ways, a mask of one direction in one layer finds a pair as well as one of both directions
    in all layers does: these figures are laxer than those over messages, and comparable across papers.

    Args:
        mask: bool ``(L, E)`` or ``(1, E)``, the retained messages.
        gold: bool ``(L, E)`` or ``(1, E)``.
        graphs: the batch.
    """
    pair, graph = node_pairs(graphs)
    found, right = (graph.new_zeros(len(graph)).index_add(0, pair, x.any(0).long()) > 0 for x in (mask, gold))

    def per_graph(pairs: Tensor) -> Tensor:
        return graph.new_zeros(graphs.num_graphs).index_add(0, graph, pairs.long())

    return PairCounts(*(per_graph(x) for x in (found & right, found, right, torch.ones_like(found))))
