"""Evaluate many subsets of messages of many graphs at once: copies of the batch, each with its own mask."""

from __future__ import annotations

import torch
from torch import Tensor

from attribench.base.seeds import derive
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.noise import EdgeNoise
from attribench.model.output import Output
from attribench.plugins.masks import rank_within

MESSAGES_AT_ONCE = 30_000
"""Messages of one pass; larger passes are no faster, and smaller ones are dominated by overhead."""


class Copies:
    """As many copies of a batch as make one pass worth its overhead.

    Args:
        gates: the entered gates of the model.
        output: what its output means.
        graphs: G graphs.
        at_most: no more copies than this.
    """

    def __init__(self, gates: Gates, output: Output, graphs: GraphBatch, at_most: int) -> None:
        self.graphs = graphs
        self.output = output
        self.count = max(1, min(at_most, MESSAGES_AT_ONCE // max(1, graphs.num_edges, graphs.num_nodes)))
        self.recording = gates.record(
            graphs.select(torch.arange(graphs.num_graphs, device=graphs.device).repeat(self.count))
        )

    @torch.no_grad()
    def evaluate(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run masks ``(T, L, E)`` with T <= ``count``; return ``(T, G)`` whether predictions stay, and D*."""
        given = len(masks)
        padded = torch.cat([masks, masks[:1].expand(self.count - given, -1, -1)]).transpose(0, 1).flatten(1)
        recording = self.recording
        logits = recording.forward(padded.to(recording.logits.dtype))
        unchanged = self.output.unchanged(recording.logits, logits, recording.graphs)
        divergence = self.output.divergence(recording.logits, logits, recording.graphs)
        return unchanged.view(self.count, -1)[:given], divergence.view(self.count, -1)[:given]


def canonical_rank(graphs: GraphBatch, num_layers: int) -> Tensor:
    """Return ``(L, E)``: each message's place in a random order of its graph's that no batch or edge order changes."""
    groups = graphs.edge_graph.repeat(num_layers)
    hashes = EdgeNoise(graphs, num_layers, derive("subsets")).rank().flatten()
    return rank_within([hashes], groups).view(num_layers, -1)
