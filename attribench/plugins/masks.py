"""From scores to masks: normalisation, thresholds, fixed shares, matched random masks. All per graph, all batched."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.seeds import derive
from ..model.graphs import GraphBatch
from ..model.noise import EdgeNoise
from .method import Attribution

THRESHOLDS = tuple(i / 10 for i in range(1, 10))
"""The grid of the paper (Section 4)."""


def normalise(attribution: Attribution, graphs: GraphBatch) -> Tensor:
    """Return scores in [0, 1] ``(L, E)``: gates as they are, others as shares of the graph's largest absolute value."""
    if attribution.scale == "gate":
        return attribution.scores
    size = attribution.scores.abs()
    largest = size.new_zeros(graphs.num_graphs).scatter_reduce(0, graphs.edge_graph, size.amax(0), "amax")
    return size / torch.where(largest > 0, largest, 1)[graphs.edge_graph]


def threshold(values: Tensor, t: float) -> Tensor:
    """Return the messages whose normalised score is above ``t``."""
    return values > t


def rank_within(keys: list[Tensor], groups: Tensor) -> Tensor:
    """Return the rank of every entry within its group, ordered by ``keys`` (most significant first), ascending."""
    order = torch.arange(groups.numel(), device=groups.device)
    for key in [*reversed(keys), groups]:
        order = order[key[order].argsort(stable=True)]
    position = torch.empty_like(order)
    position[order] = torch.arange(order.numel(), device=order.device)
    counts = torch.bincount(groups, minlength=int(groups.max()) + 1 if groups.numel() else 0)
    return position - (counts.cumsum(0) - counts)[groups]


def top_shares(values: Tensor, graphs: GraphBatch, shares: Sequence[float]) -> list[Tensor]:
    """Return the masks of each graph's largest ``ceil(share * L * E_g)`` values ``(L, E)``, one for every share.

    Ties are broken by a hash of graph, layer and edge: deterministic, the same in every batch and order, and without a
    preference for edges that were stored first.
    """
    num_layers = len(values)
    groups = graphs.edge_graph.repeat(num_layers)
    hashes = EdgeNoise(graphs, num_layers, derive("ties")).rank().flatten()
    rank = rank_within([-values.flatten(), hashes], groups)
    edges = graphs.num_edges_per_graph.double()
    counts = [(share * num_layers * edges - 1e-9).ceil().long() for share in shares]
    return [(rank < count[groups]).view_as(values) for count in counts]


def random_like(mask: Tensor, graphs: GraphBatch, seed: int) -> Tensor:
    """Return a random mask that keeps as many edges as ``mask`` ``(L, E)`` in every graph and layer."""
    num_layers, num_edges = mask.shape
    layers = torch.arange(num_layers, device=mask.device)[:, None]
    groups = (layers * graphs.num_graphs + graphs.edge_graph).flatten()
    rank = rank_within([EdgeNoise(graphs, num_layers, seed).rank().flatten()], groups)
    counts = graphs.sum_per_graph(mask.long()).flatten()
    return (rank < counts[groups]).view(num_layers, num_edges)


def thin(mask: Tensor, graphs: GraphBatch, share: float, seed: int) -> Tensor:
    """Return ``mask`` ``(L, E)`` with each of its messages kept with probability ``share``.

    What is kept at a smaller share is kept at a larger one too.
    """
    return mask & (EdgeNoise(graphs, len(mask), seed).uniform() < share)
