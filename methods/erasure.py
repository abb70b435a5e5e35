"""Erasure search: Li, Monroe & Jurafsky 2016; the smallest set of messages that keeps the prediction, found exactly.

Subsets are tried by growing size, many of them and many graphs at once; a graph stops at the first size at which one of
them keeps its prediction, with all other messages at zero. Among subsets of that size, the first in a random order that
depends on the graph alone is taken.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import combinations, islice
from math import comb

import torch
from pydantic import Field
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

from ._pilot import allowance, first_graphs, require_nine_of_ten
from ._subsets import Copies, canonical_rank


@config
class ErasureConfig:
    """Options."""

    budget: int = Field(
        100_000,
        ge=1,
        description="subsets tried per graph, fewer where it has more than 500 messages; graphs that need more are "
        "left unfinished",
    )
    pilot: int = Field(
        10,
        ge=0,
        description="validation graphs searched first; the method is skipped if it finishes fewer than 9 of 10",
    )


@METHODS.register
class Erasure(Method):
    """Erasure search: the smallest subset of messages that keeps the prediction, exactly (Li et al. 2016)."""

    name = "erasure"
    Config = ErasureConfig
    quick = {"budget": 300, "pilot": 0}
    decides = True
    needs_gradients = False
    config: ErasureConfig

    def fit(self) -> None:
        """Search some validation graphs. Those that are not finished are those that need many messages: where there are
        many of them, what is finished says little about the rest, and the budget is spent on all for nothing.

        Raises:
            Skipped: when fewer than nine of ten are finished.
        """
        first = first_graphs(self.subject.validation, self.config.pilot)
        require_nine_of_ten(first, self._by_size(first), self._reason)

    def _reason(self, unfinished: GraphBatch) -> str:
        """Say why the method is skipped, given graphs that it did not finish."""
        largest = (self.subject.num_layers * unfinished.num_edges_per_graph).max()
        budget, fewest = self.config.budget, int(allowance(self.config.budget, largest))
        fewer = f" ({fewest} of a graph of {int(largest)} messages)" if fewest < budget else ""
        return (
            f"exact search finishes fewer than nine of ten validation graphs within {budget} subsets each{fewer}; "
            "erasure-greedy is its approximation"
        )

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Search all graphs of the batch; those that outrun the budget are not ``complete`` and retain everything."""
        mask = torch.ones(self.subject.num_layers, graphs.num_edges, dtype=torch.bool, device=graphs.device)
        complete = torch.zeros(graphs.num_graphs, dtype=torch.bool, device=graphs.device)
        for index, found, solved in self._by_size(graphs):
            mask[:, graphs.edges_of(index)] = found
            complete[index] = solved
        size = graphs.sum_per_graph(mask.sum(0)).to(torch.float64)
        return Attribution(mask.float(), hard_mask=mask, diagnostics={"size": size}, complete=complete)

    def _by_size(self, graphs: GraphBatch) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """Search all graphs of one size after the other, the smallest first.

        Yields:
            Which graphs, their masks ``(L, E)``, and which of them were finished.
        """
        rank = canonical_rank(graphs, self.subject.num_layers)  # (L, E)
        messages = self.subject.num_layers * graphs.num_edges_per_graph
        with self.gates() as gates:
            for count in self.track(messages.unique().tolist(), "graphs of one size"):
                index = (messages == count).nonzero()[:, 0]
                yield index, *self._search(gates, graphs.select(index), rank[:, graphs.edges_of(index)], count)

    def _search(self, gates: Gates, graphs: GraphBatch, rank: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Search graphs of ``count`` messages each; return the masks ``(L, E)`` and which graphs were finished."""
        mask = torch.ones_like(rank, dtype=torch.bool)
        solved = torch.zeros(graphs.num_graphs, dtype=torch.bool, device=graphs.device)
        left = int(allowance(self.config.budget, torch.tensor(count)))
        for size in range(count + 1):
            index = (~solved).nonzero()[:, 0]
            if not len(index) or not left:
                break
            active, edges = graphs.select(index), graphs.edges_of(index)
            number = min(left, comb(count, size))
            subsets = islice(combinations(range(count), size), number)
            kept, members = self._first_that_keeps(gates, active, rank[:, edges], subsets, (number, count))
            chosen = members[active.edge_graph, rank[:, edges]]
            mask[:, edges] = torch.where(kept[active.edge_graph], chosen, mask[:, edges])
            solved[index] = kept
            left -= number
        return mask, solved

    def _first_that_keeps(
        self,
        gates: Gates,
        graphs: GraphBatch,
        rank: Tensor,
        subsets: Iterator[tuple[int, ...]],
        shape: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Try subsets of places in order; return which graphs keep their prediction, and the first that does it.

        ``shape`` is the number of subsets and of places.

        Returns:
            ``(G,)`` bool, and ``(G, count)`` bool, the places of that subset.
        """
        number, count = shape
        kept = torch.zeros(graphs.num_graphs, dtype=torch.bool, device=graphs.device)
        members = torch.zeros(graphs.num_graphs, count, dtype=torch.bool, device=graphs.device)
        copies: Copies | None = None
        index = torch.arange(graphs.num_graphs, device=graphs.device)
        while not bool(kept.all()):
            if copies is None or 2 * int((~kept).sum()) <= copies.graphs.num_graphs:
                index = (~kept).nonzero()[:, 0]
                copies = Copies(gates, self.subject.output, graphs.select(index), number)
                places = rank[:, graphs.edges_of(index)]
            chunk = list(islice(subsets, copies.count))
            if not chunk:
                break
            tried = torch.zeros(len(chunk), count, dtype=torch.bool, device=graphs.device)
            tried.scatter_(1, torch.tensor(chunk, dtype=torch.long, device=graphs.device).view(len(chunk), -1), True)
            unchanged, _ = copies.evaluate(tried[:, places])
            new = unchanged.any(0) & ~kept[index]
            kept[index[new]] = True
            members[index[new]] = tried[unchanged.int().argmax(0)[new]]
        return kept, members
