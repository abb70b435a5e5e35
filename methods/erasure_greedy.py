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
from ._waves import Waves, reached

ROUNDING = 1e-3
"""Part of D* of a mask, and 1e-5 nats, by which it may be off the sum of what its rows were found to be."""


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
        """Erase the graphs ``group``; note in ``kept`` and ``dropped_in`` ``(G, count)`` what became of each place.

        What messages reach is found by trying, and the outcome is tried, too: where it is not what was expected, each
        message is removed in a pass of its own.
        """
        before = kept[group]
        for alone in (False, True):
            kept[group], dropped_in[group] = before, 0.0
            expected = self._erase_in_waves(gates, graphs, rank, group, kept, dropped_in, alone=alone)
            copies = Copies(gates, self.subject.output, graphs.select(group), 1)
            mask = kept[group][copies.graphs.edge_graph, rank[:, graphs.edges_of(group)]]
            unchanged, divergence = copies.evaluate(mask[None])
            if bool(unchanged.all()) and torch.allclose(divergence[0].double(), expected, ROUNDING, 1e-5):
                break

    def _erase_in_waves(
        self, gates: Gates, graphs: GraphBatch, rank: Tensor, group: Tensor, kept: Tensor, dropped_in: Tensor,
        *, alone: bool,
    ) -> Tensor:  # fmt: skip
        """Return D* ``(G,)`` of what is left."""
        expected = torch.zeros(len(kept), dtype=torch.float64, device=kept.device)
        output, members, waves = self.subject.output, group, None
        index, count = group, int(kept[group].sum(1).max())
        for turn in range(count):
            if waves is None or 2 * len(index) <= len(members) or 2 * waves.passes <= waves.copies.count:
                members = index
                selected, places = graphs.select(members), rank[:, graphs.edges_of(members)]
                if waves is None:
                    reach = reached(Copies(gates, output, selected, count), places, count, alone=alone)
                left, mine = kept[members, :count], torch.isin(group, members)
                waves = Waves(gates, output, selected, places, left, reach[mine])
            left = kept[members, :count]
            unchanged, divergence = waves.remove_each(left)
            change = torch.where(unchanged & (divergence <= self._most) & left, divergence, torch.inf)
            best = change.amin(1)
            # Equal messages differ in their last bits with the batch; what is as good as equal goes by place.
            rounding = torch.finfo(waves.dtype).eps ** 0.5
            place = (change <= (best + rounding * (1 + best))[:, None]).int().argmax(1)
            can = torch.isfinite(best).nonzero()[:, 0]
            waves.drop(can, place[can])
            index, dropped = members[can], place[can]
            kept[index, dropped] = False
            dropped_in[index, dropped] = turn + 1.0
            expected[index] = change[can, dropped]
            index = index[kept[index].any(1)]
            if not len(index):
                break
        return expected[group]

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
