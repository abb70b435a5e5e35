"""Predictions about nodes, or pairs of nodes, of one big graph: each is explained in its neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..base.errors import UserError
from ..base.limits import MAX_EDGES
from .graphs import GraphBatch, named_keys
from .model import GraphModel
from .output import Output

Flow = Literal["source_to_target", "target_to_source"]

CHECKED = 32
"""Targets for each of which the whole graph is run, where the model returns one row per graph."""


def neighbourhoods(
    data: Data,
    targets: Tensor,
    num_hops: int,
    node: Sequence[str] = ("x",),
    edge: Sequence[str] = (),
    name: str = "",
    flow: Flow = "source_to_target",
) -> GraphBatch:
    """Return a batch whose graph i is the subgraph that the nodes within ``num_hops`` of target i induce.

    For a model of L layers ``num_hops`` is L + 1: then the degrees, too, by which a layer may normalise the messages
    that the target's row depends on, are those of the whole graph. As by PyG's ``k_hop_subgraph``, nodes are sorted and
    edges in the order of ``data.edge_index``. The graph attribute ``target`` ``(T,)``, or ``pair`` ``(T, 2)``, numbers
    the targets within their graphs; the node attribute ``node_id`` is the number in ``data``. An edge that is to be
    predicted must not be in ``data.edge_index``.

    Args:
        data: the graph, with ``edge_index`` and the named attributes.
        targets: ``(T,)`` nodes, or ``(T, 2)`` pairs of nodes with a joint neighbourhood each.
        num_hops: how far a neighbourhood goes.
        node, edge: names of attributes to keep, one row per node or edge.
        name: of the split, say: graphs of batches with other names have other keys.
        flow: of the model's messages, as in PyG.

    Raises:
        UserError: when a target is no node, or the data lack something.
    """
    whole = whole_graph(data, node, edge, name)
    pairs = _pairs(targets, whole, num_hops, flow)
    ends = whole.edge_index if flow == "source_to_target" else whole.edge_index.flip(0)
    incoming = _Incoming(ends, whole.num_nodes)
    first = torch.arange(len(pairs), device=whole.device)[:, None] * whole.num_nodes
    seeds = first + pairs  # a node in the neighbourhood of target i is the number i * N + node
    members = frontier = seeds.unique()
    for _ in range(num_hops):
        found = incoming.of(frontier)[0].unique()
        frontier = found[~torch.isin(found, members)]
        if not frontier.numel():
            break
        members = torch.cat([members, frontier]).sort().values
    sources, position = incoming.of(members)
    inside = torch.isin(sources, members)
    graph, position = sources[inside] // whole.num_nodes, position[inside]
    order = (graph * whole.num_edges + position).argsort()
    graph, position = graph[order], position[order]
    node_ptr = _starts(members // whole.num_nodes, len(pairs))
    edge_ptr = _starts(graph, len(pairs))
    local = torch.searchsorted(members, seeds) - node_ptr[:-1, None]
    node_id = members % whole.num_nodes
    return GraphBatch(
        edge_index=torch.searchsorted(members, graph * whole.num_nodes + whole.edge_index[:, position]),
        node_ptr=node_ptr,
        edge_ptr=edge_ptr,
        graph_key=named_keys(len(pairs), name).to(whole.device),
        edge_key=torch.arange(len(graph), device=whole.device) - edge_ptr[graph],
        node={key: value[node_id] for key, value in whole.node.items()},
        edge={key: value[position] for key, value in whole.edge.items()},
        graph={"target": local[:, 0]} if targets.dim() == 1 else {"pair": local},
    )


def whole_graph(data: Data, node: Sequence[str] = ("x",), edge: Sequence[str] = (), name: str = "") -> GraphBatch:
    """Return the batch of one graph that is all of ``data``, with the node attribute ``node_id``.

    Raises:
        UserError: when the data lack edges or an attribute.
    """
    batch = GraphBatch.from_data_list([data], node, edge, name=name)
    return replace(batch, node={**batch.node, "node_id": torch.arange(batch.num_nodes, device=batch.device)})


@torch.no_grad()
def check_neighbourhoods(
    model: GraphModel, output: Output, whole: GraphBatch, batch: GraphBatch, tolerance: float = 1e-4
) -> str | None:
    """Return whether a model says of neighbourhoods what it says in the whole graph: None, or what differs in one line.

    A model with a row per node is run once on the whole graph, and all targets are compared; one with a row per graph
    (a pair, say) is run for each of the first 32 targets.

    Args:
        model: the model, in evaluation mode.
        output: what its output means.
        whole: from :func:`whole_graph`.
        batch: from :func:`neighbourhoods`, of the same data.
        tolerance: of differences, as a share of the largest logit.
    """
    kind = "pair" if "pair" in batch.graph else "target"
    local = batch.graph[kind].view(batch.num_graphs, -1)
    nodes = batch["node_id"][batch.node_ptr[:-1, None] + local]  # (T, 1) or (T, 2)
    if output.unit == "node":
        reference = model(_about(whole, kind, nodes[:1]))[nodes[:, 0]]
        rows = [model(part.batch)[part.batch.node_ptr[:-1] + part.batch[kind]] for part in batch.parts(MAX_EDGES)]
    else:
        nodes = nodes[:CHECKED]
        batch = batch.select(torch.arange(len(nodes), device=batch.device))
        reference = torch.cat([model(_about(whole, kind, nodes[i : i + 1])) for i in range(len(nodes))])
        rows = [model(part.batch) for part in batch.parts(MAX_EDGES)]
    gaps = (torch.cat(rows) - reference).abs().view(len(nodes), -1).amax(1)
    largest = float(reference.abs().max())
    bad = ~(gaps <= tolerance * largest)
    if not bool(bad.any()):
        return None
    first = int(bad.nonzero()[0])
    return (
        f"graph {first}, about node {' and '.join(map(str, nodes[first].tolist()))}: expected the logits of the whole "
        f"graph; got others, by {float(gaps[first]):.3g} at a largest logit of {largest:.3g}: the model reads farther "
        "than the neighbourhood (call neighbourhoods() with num_hops = its layers + 1), or normalises over the whole "
        "graph (GraphNorm, BatchNorm in training mode, a virtual node) and cannot be explained in neighbourhoods"
    )


class _Incoming:
    """The edges into every node, found by arithmetic for many nodes of many neighbourhoods at once."""

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        source, target = edge_index
        self.num_nodes = num_nodes
        self.order = target.argsort(stable=True)
        self.source = source[self.order]
        self.start = _starts(target, num_nodes)

    def of(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for every edge into ``members`` i * N + node, its source i * N + node and its place."""
        node = members % self.num_nodes
        first, count = self.start[node], self.start[node + 1] - self.start[node]
        before = count.cumsum(0) - count
        at = torch.arange(int(count.sum()), device=members.device) + (first - before).repeat_interleave(count)
        return self.source[at] + (members - node).repeat_interleave(count), self.order[at]


def _pairs(targets: Tensor, whole: GraphBatch, num_hops: int, flow: str) -> Tensor:
    """Return the targets as ``(T, 1)`` or ``(T, 2)`` on the graph's device, after a look at the arguments."""
    if num_hops < 1:
        raise UserError(f"expected num_hops of 1 or more, the model's layers + 1; got {num_hops}")
    if flow not in ("source_to_target", "target_to_source"):
        raise UserError(f"expected flow 'source_to_target' or 'target_to_source'; got {flow!r}")
    right = targets.dim() == 1 or targets.shape[1:] == (2,)
    if targets.dtype != torch.int64 or not right or not targets.numel():
        got = f"{targets.dtype} {tuple(targets.shape)}"
        raise UserError(f"expected targets as int64 nodes (T,) or pairs (T, 2), T > 0; got {got}")
    pairs = targets.to(whole.device).view(len(targets), -1)
    wrong = ((pairs < 0) | (pairs >= whole.num_nodes)).any(1)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        got = f"{targets[first].tolist()} at position {first}"
        raise UserError(f"expected targets among the nodes 0 to {whole.num_nodes - 1}; got {got}")
    return pairs


def _starts(group: Tensor, count: int) -> Tensor:
    """Return range starts ``(count + 1,)`` from the group of every element."""
    sizes = torch.bincount(group, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _about(whole: GraphBatch, kind: str, nodes: Tensor) -> GraphBatch:
    """Return the whole graph with one target node ``(1, 1)``, or one pair ``(1, 2)``."""
    return replace(whole, graph={kind: nodes if kind == "pair" else nodes[:, 0]})
