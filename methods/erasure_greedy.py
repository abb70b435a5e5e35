"""Greedy erasure, one message at a time: the approximation of erasure search where exact search is out of reach.

In every round each remaining message of a graph is removed on its own (Zintgraf et al. 2017); the one whose removal
keeps the prediction and changes the output least (D*) is removed for good. A graph is done when no further removal
keeps its prediction, within a tolerance of D* where one is given. All graphs, and many candidates of each, are tried at
once; candidates that reach no row of the output in common in one pass (``_waves``).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

from ._subsets import Copies, canonical_rank
from ._waves import OneByOne, Removal, Waves, reached


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
        self, gates: Gates, graphs: GraphBatch, rank: Tensor, group: Tensor, kept: Tensor, dropped_in: Tensor
    ) -> None:
        """Erase the graphs ``group``; note in ``kept`` and ``dropped_in`` ``(G, count)`` what became of each place."""
        selected, places = graphs.select(group), rank[:, graphs.edges_of(group)]
        count = int(kept[group].sum(1).max())
        reach = reached(gates, self.subject.output, selected, places, count)
        before = kept[group]
        if not self._erased(gates, graphs, rank, group, kept, dropped_in, reach):
            kept[group], dropped_in[group] = before, 0.0
            self._erased(gates, graphs, rank, group, kept, dropped_in, None)

    def _erased(
        self, gates: Gates, graphs: GraphBatch, rank: Tensor, group: Tensor, kept: Tensor, dropped_in: Tensor,
        reach: Tensor | None,
    ) -> bool:  # fmt: skip
        """Erase the graphs; return False where messages did something else together than each by itself."""
        output, members = self.subject.output, group
        removal: Removal | None = None
        index, count = group, int(kept[group].sum(1).max())
        for turn in range(count):
            if removal is None or 2 * len(index) <= len(members) or removal.wasteful():
                if removal is not None and not removal.agrees(kept[members, :count]):
                    return False
                members = index
                selected, places = graphs.select(members), rank[:, graphs.edges_of(members)]
                if reach is None:
                    removal = OneByOne(Copies(gates, output, selected, count), places)
                else:
                    mine = reach[torch.isin(group, members)]
                    removal = Waves(gates, output, selected, places, kept[members, :count], mine)
            left = kept[members, :count]
            unchanged, divergence = removal.remove_each(left)
            change = torch.where(unchanged & (divergence <= self._most) & left, divergence, torch.inf)
            best = change.amin(1)
            # Equal messages differ in their last bits with the batch; what is as good as equal goes by place.
            rounding = torch.finfo(removal.dtype).eps ** 0.5
            place = (change <= (best + rounding * (1 + best))[:, None]).int().argmax(1)
            can = torch.isfinite(best).nonzero()[:, 0]
            removal.drop(can, place[can])
            index, dropped = members[can], place[can]
            kept[index, dropped] = False
            dropped_in[index, dropped] = turn + 1.0
            index = index[kept[index].any(1)]
            if not len(index):
                break
        return removal is None or removal.agrees(kept[members, :count])

    @property
    def _most(self) -> float:
        """The largest D* that is allowed."""
        return math.inf if self.config.tolerance is None else self.config.tolerance


def of_like_size(messages: Tensor) -> list[Tensor]:
    """Return graphs in groups, numbers of messages within a quarter: each is given as many tries as the largest."""
    sizes, order = messages.sort()
    groups, start = [], int((sizes == 0).sum())
    while start < len(sizes):
        end = int((sizes <= sizes[start] * 1.25).sum())
        groups.append(order[start:end])
        start = end
    return groups
