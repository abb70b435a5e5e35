"""Layers of adjacency matrices: graphs padded to one size, whose edges are entries of one matrix per relation (Eq. 8).

There is no list of messages: what a node sends in a relation is the same for all who receive it, weighed by the entry
of the matrix. Such a layer derives from :class:`AdjacencyLayer`, and its gates act on entries (Eq. 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .graphs import GraphBatch
from .refusals import UnsupportedModelError


@dataclass(frozen=True, eq=False)
class Padding:
    """Where nodes and edges of a batch stand in dense tensors of G graphs, each padded to V nodes, with R relations.

    Edges are entries (graph, relation, target, source) of matrices ``(G, R, V, V)``, in the order of the batch.

    Args:
        slot: ``(N,)`` int64, of every node among the G V places.
        entry: ``(E,)`` int64, of every edge among the G R V V entries.
        shape: (G, R, V, V).
    """

    slot: Tensor
    entry: Tensor
    shape: tuple[int, int, int, int]

    @staticmethod
    def of(graphs: GraphBatch, relation: Tensor | None = None, num_relations: int = 1, size: int = 0) -> Padding:
        """Return where the nodes and edges of ``graphs`` stand.

        Args:
            graphs: the batch.
            relation: ``(E,)`` int64, the matrix of every edge, below ``num_relations``; all in one where None.
            num_relations: R.
            size: V; the largest graph's number of nodes where that is more.

        Raises:
            UnsupportedModelError: where a relation is none of R.
        """
        nodes, count = graphs.num_nodes_per_graph, graphs.num_graphs
        size = max(size, int(nodes.max()) if count else 0)
        first = torch.arange(count, device=graphs.device) * size - graphs.node_ptr[:-1]
        slot = torch.arange(graphs.num_nodes, device=graphs.device) + first[graphs.batch]
        source, target = slot[graphs.edge_index] - (graphs.edge_graph * size)
        if relation is None:
            relation = torch.zeros_like(source)
        if relation.shape != source.shape or bool(((relation < 0) | (relation >= num_relations)).any()):
            raise UnsupportedModelError(
                f"expected a relation from 0 to {num_relations - 1} for each of {len(source)} edges; got "
                f"{_range(relation)} of shape {tuple(relation.shape)}: make as many adjacency matrices as there are "
                "types of edges"
            )
        entry = ((graphs.edge_graph * num_relations + relation) * size + target) * size + source
        return Padding(slot, entry, (count, num_relations, size, size))

    def matrices(self, values: Tensor) -> Tensor:
        """Return ``(G, R, V, V)`` with ``values`` ``(E,)`` where the edges are, summed where several are one."""
        count, relations, size, _ = self.shape
        whole = values.new_zeros(count * relations * size * size)
        return whole.index_put((self.entry,), values, accumulate=True).view(self.shape)

    def factors(self, values: Tensor) -> Tensor:
        """Return ``(G, R, V, V)`` with ``values`` ``(E,)`` where the edges are, each an entry of its own, else 1."""
        count, relations, size, _ = self.shape
        whole = values.new_ones(count * relations * size * size)
        return whole.index_put((self.entry,), values).view(self.shape)

    def pad(self, nodes: Tensor) -> Tensor:
        """Return ``(G, V, ...)`` of what stands for each node ``(N, ...)``, 0 where there is none."""
        count, _, size, _ = self.shape
        whole = nodes.new_zeros(count * size, *nodes.shape[1:])
        return whole.index_put((self.slot,), nodes).view(count, size, *nodes.shape[1:])

    def nodes(self, padded: Tensor) -> Tensor:
        """Return ``(N, ...)`` of ``(G, V, ...)``."""
        return padded.flatten(0, 1)[self.slot]


class Aggregate(nn.Module):
    """The sum over relations of A_r M_r: the place where gates act."""

    def forward(self, adjacency: Tensor, messages: Tensor) -> Tensor:
        """Return what reaches every node ``(G, V, D)``.

        Args:
            adjacency: ``(G, R, V, V)``, rows by target, columns by source; ``(G, V, V)`` with one relation.
            messages: ``(G, R, V, D)``, what every node sends; ``(G, V, D)`` with one relation.
        """
        sums = adjacency @ messages
        return sums.sum(1) if adjacency.dim() == 4 else sums


class AdjacencyLayer(nn.Module):
    """Base class of layers whose messages go by adjacency matrices: H(k) = f(sum_r A_r H(k-1) W_r) (Eq. 8).

    A layer derives from it, takes its states ``(G, V, H)`` as the first argument of ``forward``, and calls
    ``self.aggregate(adjacency, messages)`` wherever nodes hear of each other. Each call is gated as a layer of its own:
    entries become z a and what is missing (1 - z) a b (Eq. 10). So what normalises belongs into ``adjacency``, by the
    degrees of the whole graph. Entries beside the edges, but for those from a node to itself, are refused, and edges
    whose entry is 0.

    :class:`Padding` makes the matrices of a batch.

    Args:
        relation: name of the edges' attribute that says of which matrix an edge is an entry; None for a single matrix.

    Example::

        class DenseGCN(AdjacencyLayer):
            def __init__(self, inputs, outputs):
                super().__init__()
                self.linear = nn.Linear(inputs, outputs)

            def forward(self, h, adjacency):                            # (G, V, H), (G, V, V)
                return self.aggregate(adjacency, self.linear(h)).relu()
    """

    def __init__(self, relation: str | None = None) -> None:
        super().__init__()
        self.relation = relation
        self.aggregate = Aggregate()


def _range(values: Tensor) -> str:
    return f"{int(values.min())} to {int(values.max())}" if values.numel() else "none"
