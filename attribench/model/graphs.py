"""Batches of graphs: a disjoint union of G graphs with N nodes and E edges in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..base.seeds import derive
from .graph_checks import check_batch, check_data_list

_STRUCTURE = ("edge_index", "node_ptr", "edge_ptr", "graph_key", "edge_key")
LEVELS = ("node", "edge", "graph")
_FIELDS = (*_STRUCTURE, *LEVELS)


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """A disjoint union of graphs, in PyG's conventions, whose nodes and edges are contiguous by graph.

    Labels and gold masks are not part of it: what a method sees is this and the model.

    Args:
        edge_index: ``(2, E)`` int64, source and target node of every edge, numbered over the whole union.
        node_ptr: ``(G + 1,)`` int64, first node of every graph, then N.
        edge_ptr: ``(G + 1,)`` int64, first edge of every graph, then E.
        graph_key: ``(G,)`` int64, an identity that a graph keeps in every batch it is part of.
        edge_key: ``(E,)`` int64, an identity that an edge keeps within its graph, whatever the order.
        node, edge, graph: named tensors with first dimension N, E and G.

    Raises:
        UserError: when they do not fit together: an edge that leaves its graph, say, would read another one. Batches
            that are made from a batch are not checked again.
    """

    edge_index: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor
    graph_key: Tensor
    edge_key: Tensor
    node: dict[str, Tensor] = field(default_factory=dict)
    edge: dict[str, Tensor] = field(default_factory=dict)
    graph: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_batch(self)

    def _derive(self, **fields: Any) -> GraphBatch:
        """Return a batch with some fields replaced that is sound because this one is; nothing is checked."""
        derived = object.__new__(GraphBatch)
        vars(derived).update({name: getattr(self, name) for name in _FIELDS} | fields)
        return derived

    @property
    def num_graphs(self) -> int:
        """G."""
        return self.graph_key.numel()

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_key.numel()

    @cached_property
    def num_nodes(self) -> int:
        """N."""
        return int(self.node_ptr[-1])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.edge_index.device

    @cached_property
    def batch(self) -> Tensor:
        """``(N,)``: the graph of every node (PyG's ``batch`` vector)."""
        return _owner(self.node_ptr)

    @cached_property
    def edge_graph(self) -> Tensor:
        """``(E,)``: the graph of every edge."""
        return _owner(self.edge_ptr)

    @cached_property
    def num_nodes_per_graph(self) -> Tensor:
        """``(G,)``."""
        return self.node_ptr.diff()

    @cached_property
    def num_edges_per_graph(self) -> Tensor:
        """``(G,)``."""
        return self.edge_ptr.diff()

    def __getitem__(self, name: str) -> Tensor:
        """Return a named tensor, or ``edge_index`` or ``batch``."""
        if name in ("edge_index", "batch"):
            return self.edge_index if name == "edge_index" else self.batch
        for level in (self.node, self.edge, self.graph):
            if name in level:
                return level[name]
        known = ["edge_index", "batch", *self.node, *self.edge, *self.graph]
        raise KeyError(f"expected one of {', '.join(known)}; got {name!r}")

    def sum_per_graph(self, values: Tensor) -> Tensor:
        """Sum ``(..., E)`` values of edges to ``(..., G)``."""
        total = values.new_zeros((*values.shape[:-1], self.num_graphs))
        return total.index_add(-1, self.edge_graph, values)

    def select(self, index: Tensor) -> GraphBatch:
        """Return the batch of the graphs ``index`` ``(B,)`` of this one, in that order."""
        nodes, node_ptr = _ranges(self.node_ptr, index)
        edges, edge_ptr = _ranges(self.edge_ptr, index)
        shift = torch.repeat_interleave(node_ptr[:-1] - self.node_ptr[index], edge_ptr.diff())
        return self._derive(
            edge_index=self.edge_index[:, edges] + shift,
            node_ptr=node_ptr,
            edge_ptr=edge_ptr,
            graph_key=self.graph_key[index],
            edge_key=self.edge_key[edges],
            node={name: value[nodes] for name, value in self.node.items()},
            edge={name: value[edges] for name, value in self.edge.items()},
            graph={name: value[index] for name, value in self.graph.items()},
        )

    def edges_of(self, index: Tensor) -> Tensor:
        """Return the positions in this batch of the edges that :meth:`select` of ``index`` keeps, in its order."""
        return _ranges(self.edge_ptr, index)[0]

    def nodes_of(self, index: Tensor) -> Tensor:
        """Return the positions in this batch of the nodes that :meth:`select` of ``index`` keeps, in its order."""
        return _ranges(self.node_ptr, index)[0]

    def reorder_edges(self, order: Tensor) -> GraphBatch:
        """Return the batch with its edges in ``order`` ``(E,)``, which must keep every graph's edges together."""
        if not torch.equal(self.edge_graph[order], self.edge_graph):
            raise ValueError("expected an order that keeps each graph's edges in its own range; got another")
        return self._derive(
            edge_index=self.edge_index[:, order],
            edge_key=self.edge_key[order],
            edge={name: value[order] for name, value in self.edge.items()},
        )

    def with_edges(self, edge_index: Tensor) -> GraphBatch:
        """Return the batch with other ends ``(2, E)`` of its edges, each within its graph; attributes stay."""
        return self._derive(edge_index=edge_index)

    def keep_edges(self, keep: Tensor) -> GraphBatch:
        """Return the batch with only the edges where ``keep`` ``(E,)`` is true; all nodes stay."""
        counts = self.sum_per_graph(keep.long())
        return self._derive(
            edge_index=self.edge_index[:, keep],
            edge_ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            edge_key=self.edge_key[keep],
            edge={name: value[keep] for name, value in self.edge.items()},
        )

    def minibatches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, GraphBatch]]:
        """Yield ``(index, batch)`` of at most ``size`` graphs; shuffled where a (CPU) generator is given."""
        whole, order = self, torch.arange(self.num_graphs, device=self.device)
        if generator is not None:
            order = torch.randperm(self.num_graphs, generator=generator).to(self.device)
            whole = self.select(order)
        bounds = [*range(0, self.num_graphs, size), self.num_graphs]
        nodes, edges = whole.node_ptr[bounds].tolist(), whole.edge_ptr[bounds].tolist()
        for i in range(len(bounds) - 1):
            graphs = slice(bounds[i], bounds[i + 1])
            yield order[graphs], whole._slice(graphs, slice(*nodes[i : i + 2]), slice(*edges[i : i + 2]))

    def parts(self, max_edges: int) -> Iterator[Part]:
        """Yield runs of consecutive graphs of at most ``max_edges`` edges, or of one graph that has more."""
        ends, start = self.edge_ptr.cpu(), 0
        while start < self.num_graphs or start == 0:
            fits = int(torch.searchsorted(ends, ends[start] + max_edges, right=True)) - 1
            stop = self.num_graphs if fits >= self.num_graphs else max(fits, start + 1)
            graphs, edges = slice(start, stop), slice(int(ends[start]), int(ends[stop]))
            nodes = slice(int(self.node_ptr[start]), int(self.node_ptr[stop]))
            whole = stop - start == self.num_graphs
            yield Part(self if whole else self._slice(graphs, nodes, edges), graphs, edges)
            start = max(stop, 1)

    def _slice(self, graphs: slice, nodes: slice, edges: slice) -> GraphBatch:
        """Return a run of consecutive graphs, given the ranges of their nodes and edges; copies little."""
        ends = slice(graphs.start, graphs.stop + 1)
        return self._derive(
            edge_index=self.edge_index[:, edges] - nodes.start,
            node_ptr=self.node_ptr[ends] - nodes.start,
            edge_ptr=self.edge_ptr[ends] - edges.start,
            graph_key=self.graph_key[graphs],
            edge_key=self.edge_key[edges],
            node={name: value[nodes] for name, value in self.node.items()},
            edge={name: value[edges] for name, value in self.edge.items()},
            graph={name: value[graphs] for name, value in self.graph.items()},
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> GraphBatch:
        """Return the batch with ``function`` applied to every tensor (a move between devices, say)."""
        levels = {name: {key: function(x) for key, x in getattr(self, name).items()} for name in LEVELS}
        return self._derive(**{name: function(getattr(self, name)) for name in _STRUCTURE}, **levels)

    def to(self, target: torch.device | str | torch.dtype) -> GraphBatch:
        """Return the batch on another device, or with its floating-point tensors in another precision."""
        if isinstance(target, torch.dtype):
            return self.map(lambda x: x.to(target) if x.is_floating_point() else x)
        return self.map(lambda x: x.to(target))

    @staticmethod
    def from_data_list(
        graphs: Iterable[Data],
        node: Sequence[str] = ("x",),
        edge: Sequence[str] = (),
        graph: Sequence[str] = (),
        name: str = "",
    ) -> GraphBatch:
        """Join PyG ``Data`` objects, keeping the attributes named for each level.

        A graph's key is its position in the list and the ``name``, say that of the split, so that graphs of lists
        with different names have different keys; an edge's key is its column in ``edge_index``.

        Raises:
            UserError: for the first graph that lacks an attribute or edges, or has impossible ones; names graph, edge
                and value.
        """
        graphs = list(graphs)
        check_data_list(graphs, {"node": node, "edge": edge, "graph": graph}, name)
        device = graphs[0].edge_index.device
        nodes = torch.tensor([0, *(int(data.num_nodes or 0) for data in graphs)], device=device)
        edges = torch.tensor([0, *(int(data.num_edges) for data in graphs)], device=device)
        node_ptr = nodes.cumsum(0)
        return GraphBatch(
            edge_index=torch.cat([data.edge_index + node_ptr[i] for i, data in enumerate(graphs)], dim=1),
            node_ptr=node_ptr,
            edge_ptr=edges.cumsum(0),
            graph_key=named_keys(len(graphs), name).to(device),
            edge_key=torch.cat([torch.arange(int(data.num_edges), device=device) for data in graphs]),
            node={key: torch.cat([data[key] for data in graphs]) for key in node},
            edge={key: torch.cat([data[key] for data in graphs]) for key in edge},
            graph={key: torch.stack([torch.as_tensor(data[key]).squeeze(0) for data in graphs]) for key in graph},
        )


@dataclass(frozen=True, eq=False)
class Part:
    """A run of consecutive graphs of a larger batch.

    Args:
        batch: the graphs.
        graphs, edges: where they and their edges are in the larger batch.
    """

    batch: GraphBatch
    graphs: slice
    edges: slice


def named_keys(count: int, name: str) -> Tensor:
    """Return ``count`` graph keys (int64) that differ from those of any other name."""
    return torch.arange(count) + (derive("graphs", name) >> 1)


def _owner(ptr: Tensor) -> Tensor:
    """Turn range starts ``(G + 1,)`` into the owner of every element."""
    return torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())


def _ranges(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elements of the ranges ``index`` one after the other, and the new range starts."""
    counts = ptr[index + 1] - ptr[index]
    new_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = torch.repeat_interleave(ptr[index] - new_ptr[:-1], counts)
    return torch.arange(shift.numel(), device=ptr.device) + shift, new_ptr
