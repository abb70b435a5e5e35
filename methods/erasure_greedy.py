"""Greedy erasure, one message at a time: the approximation of erasure search where exact search is out of reach.

In every round each remaining message of a graph is removed on its own (Zintgraf et al. 2017); the one whose removal
keeps the prediction and changes the output least (D*) is removed for good. A graph is done when no further removal
keeps its prediction, within a tolerance of D* where one is given. All graphs, and many candidates of each, are tried at
once.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

from ._subsets import Copies, canonical_rank


@config
class GreedyConfig:
    """Options."""

    tolerance: float | None = Field(
        None,
        ge=0,
        description="nats of D* that the output may move by, as for graphmask-nonamortized; none: any, as long as the "
        "prediction stays",
    )


@METHODS.register
class GreedyErasure(Method):
    """Greedy erasure: drop one message at a time while the prediction stays (after Li et al. 2016)."""

    name = "erasure-greedy"
    Config = GreedyConfig
    decides = True
    needs_gradients = False
    config: GreedyConfig

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Erase all graphs of the batch; score: 1 for what is left, below 1 the higher the later it was dropped."""
        num_layers, device = self.subject.num_layers, graphs.device
        rank = canonical_rank(graphs, num_layers)  # (L, E)
        count = int(rank.max()) + 1 if rank.numel() else 0
        messages = num_layers * graphs.num_edges_per_graph
        kept = torch.arange(count, device=device) < messages[:, None]  # (G, count)
        dropped_in = torch.zeros(graphs.num_graphs, count, device=device)
        with self.gates() as gates:
            for group in self.track(of_like_size(messages), "graphs of like size"):
                self._erase(gates, graphs, rank, group, kept, dropped_in)
        mask = kept[graphs.edge_graph, rank]
        order = dropped_in[graphs.edge_graph, rank] / (messages[graphs.edge_graph] + 1)
        return Attribution(torch.where(mask, 1.0, order), hard_mask=mask)

    def _erase(
        self, gates: Gates, graphs: GraphBatch, rank: Tensor, index: Tensor, kept: Tensor, dropped_in: Tensor
    ) -> None:
        """Erase the graphs ``index``; note in ``kept`` and ``dropped_in`` ``(G, count)`` what became of each place."""
        copies: Copies | None = None
        for turn in range(int(kept[index].sum(1).max())):
            if copies is None or 2 * len(index) <= copies.graphs.num_graphs:
                members = index
                copies = Copies(gates, self.subject.output, graphs.select(members), kept.shape[1])
                places = rank[:, graphs.edges_of(members)]
            best, place = self._least_change(copies, kept[members], places)
            can = torch.isfinite(best)
            index, dropped = members[can], place[can]
            kept[index, dropped] = False
            dropped_in[index, dropped] = turn + 1.0
            index = index[kept[index].any(1)]
            if not len(index):
                break

    def _least_change(self, copies: Copies, kept: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return each graph's smallest D* of a removal that is allowed (infinite without), and its place."""
        graphs = copies.graphs
        current = kept[graphs.edge_graph, places]
        left = kept.sum(1)
        order = (~kept).int().argsort(dim=1, stable=True)  # the places that are left come first
        changes, most = [], torch.inf if self.config.tolerance is None else self.config.tolerance
        for number in torch.arange(int(left.max()), device=graphs.device).split(copies.count):
            candidates = order[:, number].T  # (T, G)
            masks = current & (places != candidates[:, graphs.edge_graph][:, None])  # (T, L, E)
            unchanged, divergence = copies.evaluate(masks)
            allowed = unchanged & (divergence <= most) & (number[:, None] < left)
            changes.append(torch.where(allowed, divergence, torch.inf))
        change = torch.cat(changes)
        best = change.amin(0)
        # Equal messages differ in their last bits with the batch; what is as good as equal goes by place.
        tied = change <= best + torch.finfo(change.dtype).eps ** 0.5 * (1 + best)
        return best, order.gather(1, tied.int().argmax(0)[:, None])[:, 0]


def of_like_size(messages: Tensor) -> list[Tensor]:
    """Return graphs in groups, numbers of messages within a quarter: each is given as many tries as the largest."""
    sizes, order = messages.sort()
    groups, start = [], int((sizes == 0).sum())
    while start < len(sizes):
        end = int((sizes <= sizes[start] * 1.25).sum())
        groups.append(order[start:end])
        start = end
    return groups
