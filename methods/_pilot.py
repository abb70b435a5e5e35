"""What a search may cost on one graph, and a pilot: some validation graphs are searched before all are."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import torch
from torch import Tensor

from attribench.base.errors import Skipped
from attribench.model.graphs import GraphBatch

MESSAGES_PER_GRAPH = 50_000_000
"""The most messages that all evaluations of one graph may hold together. Up to 500 messages it leaves a graph 100,000
evaluations, 15,625 of 3,200 messages and 66 of 750,000: the cost of a graph is bounded whatever its size."""


def allowance(budget: int, messages: Tensor) -> Tensor:
    """Return how many evaluations each graph is given: ``budget``, or fewer where the graph is large.

    Args:
        budget: evaluations of a graph that is not large.
        messages: ``(G,)`` int64, of each graph, over all layers.

    Returns:
        ``(G,)`` int64. It depends on the graph's size alone: not on its batch, nor on the time that anything takes.
    """
    return (MESSAGES_PER_GRAPH // messages.clamp(min=1)).clamp(max=budget)


def first_graphs(graphs: GraphBatch, at_most: int) -> GraphBatch:
    """Return the first graphs of a batch, no more than ``at_most``."""
    return graphs.select(torch.arange(min(at_most, graphs.num_graphs), device=graphs.device))


def require_nine_of_ten(
    pilot: GraphBatch, searched: Generator[tuple[Tensor, ...], None, None], reason: Callable[[GraphBatch], str]
) -> None:
    """Search graphs until it is known whether nine of ten are finished.

    Args:
        pilot: the graphs; those that ``searched`` does not name count as finished.
        searched: searches them and yields, first, which graphs, ``(g,)``, and last, which of these were finished,
            ``(g,)`` bool.
        reason: says why the method is skipped, given the graphs that were not finished.

    Raises:
        Skipped: when fewer than nine of ten are finished; what is not searched by then is not.
    """
    unfinished: list[Tensor] = []
    with closing(searched):
        for index, *_, finished in searched:
            unfinished.append(index[~finished])
            if 10 * sum(map(len, unfinished)) > pilot.num_graphs:
                raise Skipped(reason(pilot.select(torch.cat(unfinished))))
