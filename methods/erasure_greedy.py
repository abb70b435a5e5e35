"""Greedy erasure, one message at a time: the approximation of erasure search where exact search is out of reach.

In every round each remaining message of a graph is removed on its own (Zintgraf et al. 2017); the one whose removal
keeps the prediction and changes the output least (D*) is removed for good. A graph is done when no further removal
keeps its prediction. All graphs, and many candidates of each, are tried at once.
"""

from __future__ import annotations

import torch

from attribench.graphs import GraphBatch
from attribench.method import Attribution, Method
from attribench.registry import METHODS

from ._subsets import Copies, canonical_rank


@METHODS.register
class GreedyErasure(Method):
    """Greedy erasure: drop one message at a time while the prediction stays (after Li et al. 2016)."""

    name = "erasure-greedy"
    decides = True

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Erase all graphs of the batch; score: 1 for what is left, below 1 the higher the later it was dropped."""
        num_layers, device = self.subject.num_layers, graphs.device
        rank = canonical_rank(graphs, num_layers)  # (L, E)
        count = int(rank.max()) + 1 if rank.numel() else 0
        messages = num_layers * graphs.num_edges_per_graph
        kept = torch.arange(count, device=device) < messages[:, None]  # (G, count)
        dropped_in = torch.zeros(graphs.num_graphs, count, device=device)
        index = torch.arange(graphs.num_graphs, device=device)
        copies: Copies | None = None
        with self.gates() as gates:
            for turn in self.track(range(count), "dropping messages", total=count):
                if copies is None or 2 * len(index) <= copies.graphs.num_graphs:
                    members = index
                    copies = Copies(gates, self.subject.output, graphs.select(members), count)
                    places = rank[:, graphs.edges_of(members)]
                best, candidate = self._least_change(copies, kept[members], places)
                can = torch.isfinite(best)
                kept[members[can], candidate[can]] = False
                dropped_in[members[can], candidate[can]] = turn + 1.0
                index = members[can]
                if not len(index):
                    break
        mask = kept[graphs.edge_graph, rank]
        order = dropped_in[graphs.edge_graph, rank] / (messages[graphs.edge_graph] + 1)
        return Attribution(torch.where(mask, 1.0, order), hard_mask=mask)

    def _least_change(
        self, copies: Copies, kept: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each graph's smallest D* of a removal that keeps the prediction (infinity without one), and which."""
        graphs = copies.graphs
        current = kept[graphs.edge_graph, places]
        changes = []
        for candidates in torch.arange(kept.shape[1], device=graphs.device).split(copies.count):
            masks = current & (places != candidates[:, None, None])  # (T, L, E)
            unchanged, divergence = copies.evaluate(masks)
            changes.append(torch.where(unchanged & kept[:, candidates].T, divergence, torch.inf))
        change = torch.cat(changes)  # (count, G)
        best = change.amin(0)
        # Equal messages differ in their last bits with the batch; what is as good as equal goes by place.
        tied = change <= best + torch.finfo(change.dtype).eps ** 0.5 * (1 + best)
        return best, tied.int().argmax(0)
