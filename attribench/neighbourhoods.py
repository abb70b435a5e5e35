"""One graph with many nodes to explain: a neighbourhood for each, so that they are graphs like all others.

L layers read what is L steps away, and how many neighbours a node has (GCN's normalisation) one step further: with
L + 1 hops a target's output is that of the whole graph, which is checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

from .errors import UserError
from .graphs import GraphBatch
from .model import GraphModel
from .output import Output


def neighbourhoods(
    data: Data,
    targets: Tensor,
    num_hops: int,
    node: Sequence[str] = ("x",),
    edge: Sequence[str] = (),
    name: str = "",
) -> GraphBatch:
    """Return a batch whose graphs are the neighbourhoods of some nodes, or of pairs of nodes.

    Args:
        data: the whole graph.
        targets: ``(T,)`` nodes, or ``(T, 2)`` pairs of nodes.
        num_hops: L + 1 for a model of L layers.
        node, edge: attributes to keep.
        name: of the batch, such as its split's; see :meth:`~attribench.graphs.GraphBatch.from_data_list`.

    Returns:
        T graphs with the graph attribute ``target`` ``(T,)``, or ``pair`` ``(T, 2)``, which numbers the nodes within
        their graph, and the node attribute ``node_id``, their numbers in ``data``. Edges keep their order.

    Raises:
        UserError: for a target that is no node.
    """
    count = int(data.num_nodes or 0)
    if targets.dim() not in (1, 2) or targets.dtype != torch.int64 or (targets.dim() == 2 and targets.shape[1] != 2):
        raise UserError(f"expected int64 targets (T,) or pairs (T, 2); got {targets.dtype} {tuple(targets.shape)}")
    outside = ((targets < 0) | (targets >= count)).nonzero()
    if len(outside):
        value = int(targets[tuple(outside[0])])
        raise UserError(f"expected targets from 0 to {count - 1}; got {value} at position {int(outside[0, 0])}")
    level = "pair" if targets.dim() == 2 else "target"
    graphs = []
    for target in targets:
        nodes, edge_index, _, kept = k_hop_subgraph(
            target.reshape(-1), num_hops, data.edge_index, relabel_nodes=True, num_nodes=count
        )
        # What k_hop_subgraph calls the mapping is in the order of the sorted, distinct targets.
        ends = torch.searchsorted(nodes, target.reshape(-1))
        fields = {key: data[key][nodes] for key in node} | {key: data[key][kept] for key in edge}
        graph = Data(edge_index=edge_index, node_id=nodes, num_nodes=len(nodes), **fields)
        graph[level] = ends[None] if level == "pair" else ends[0]
        graphs.append(graph)
    return GraphBatch.from_data_list(graphs, [*node, "node_id"], edge, [level], name)


def whole_graph(data: Data, node: Sequence[str] = ("x",), edge: Sequence[str] = ()) -> GraphBatch:
    """Return the whole graph as a batch of one, for :attr:`~attribench.task.Problem.whole`."""
    return GraphBatch.from_data_list([data], node, edge, name="whole")


@torch.no_grad()
def check_neighbourhoods(
    model: GraphModel, output: Output, whole: GraphBatch, batch: GraphBatch, tolerance: float = 1e-4
) -> str | None:
    """Return which target's output is not that of the whole graph, and why that may be, in one line; or None.

    Args:
        model: in evaluation mode.
        output: what its output means.
        whole: one graph.
        batch: neighbourhoods of it.
        tolerance: of the largest absolute output.
    """
    if "node_id" not in batch.node or not {"target", "pair"} & batch.graph.keys():
        return "expected node_id and target, or pair, in graphs of one whole graph; got others: use neighbourhoods()"
    mine = output.select(model(batch), batch)
    level = "pair" if "pair" in batch.graph else "target"
    offset = batch.node_ptr[:-1].view(-1, *(1 for _ in batch[level].shape[1:]))
    ids = batch["node_id"][batch[level] + offset]
    expected = torch.cat([output.select(model(asked), asked) for asked in _asked(whole, level, ids)])
    gap = (mine - expected).abs().reshape(len(mine), -1).amax(1)
    wrong = (gap > tolerance * expected.abs().max().clamp(min=1e-12)).nonzero()[:1, 0]
    if not len(wrong):
        return None
    return (
        f"expected the output of the whole graph for every {level}; it differs by {float(gap[wrong[0]]):.3g} for "
        f"{ids[wrong[0]].tolist()}: use more hops, one more than the model has layers, and no normalisation over the "
        "whole graph"
    )


def _asked(whole: GraphBatch, level: str, ids: Tensor) -> list[GraphBatch]:
    """Return the whole graph with one target each."""
    return [whole.with_graph_tensor(level, target[None]) for target in ids]
