"""Nodes of one big graph as graphs to explain: the neighbourhood of each, on which a model says what it says there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from ..base.errors import UserError
from ..base.seeds import generator
from ..model.called import adapted, attributes_of, on_cpu
from ..model.gates import Gates
from ..model.graphs import GraphBatch
from ..model.subgraphs import neighbourhoods, whole_graph
from .giving import copy_of, outputs_of

FITTED = 200
"""Other nodes that methods fit on and thresholds are chosen on, where none are given."""


def about_nodes(
    model: nn.Module,
    data: Data,
    nodes: Any,
    fit: Any = None,
    num_hops: int | None = None,
    arguments: Sequence[str] | None = None,
) -> tuple[list[Data], list[Data], GraphBatch]:
    """Return the neighbourhoods of nodes, those of nodes to fit on, and the whole graph.

    A neighbourhood has the attributes of ``data``, ``node_id`` (its nodes' numbers there), ``target`` (the node that it
    is about, among its own) and that node's ``y``.

    Args:
        model: returns a row for every node.
        data: the graph.
        nodes: to explain: numbers, or a mask ``(N,)``.
        fit: to fit on and to choose thresholds on, likewise; without them up to 200 others, drawn.
        num_hops: how far neighbourhoods go; without it the model's layers + 1, see :func:`.neighbourhoods`.
        arguments: what the model is called with, where its ``forward`` does not name attributes.

    Raises:
        UserError: when these are no nodes of one graph, or the model does not run on it.
    """
    if not isinstance(data, Data):
        raise UserError(
            f"expected one torch_geometric.data.Data with nodes=...; got {type(data).__name__}: give the graph itself, "
            "of several kinds of nodes as HeteroData.to_homogeneous()"
        )
    (whole,) = on_cpu([data])
    taken = next((name for name in ("target", "node_id") if name in whole), None)
    if taken is not None:
        raise UserError(f"expected a graph without {taken!r}, which neighbourhoods have of their own: rename it")
    levels = attributes_of([whole])
    called, read = adapted(copy_of(model), levels, arguments)
    called.eval()
    batch = whole_graph(whole, read["node"], read["edge"])
    if num_hops is None:
        outputs_of(called, batch)  # a model that does not run says so there
        with Gates(called) as gates, torch.no_grad():
            num_hops = gates.record(batch).num_layers + 1
    asked = _numbers(nodes, batch.num_nodes)
    drawn = torch.randperm(batch.num_nodes, generator=generator("nodes to fit on"))
    fitted = drawn[~torch.isin(drawn, asked)][:FITTED] if fit is None else _numbers(fit, batch.num_nodes)
    flows = {layer.flow for layer in called.modules() if isinstance(layer, MessagePassing)}
    found = neighbourhoods(
        whole, torch.cat([asked, fitted]), num_hops, levels["node"], levels["edge"],
        flow="target_to_source" if flows == {"target_to_source"} else "source_to_target",
    )  # fmt: skip
    y = whole.get("y")
    graphs = _listed(found, y if isinstance(y, Tensor) and y.shape[:1] == (batch.num_nodes,) else None)
    return graphs[: len(asked)], graphs[len(asked) :], batch


def _numbers(nodes: Any, count: int) -> Tensor:
    """Return nodes as their numbers; :func:`.neighbourhoods` says which are none."""
    try:
        found = torch.as_tensor(nodes).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"expected nodes as numbers or as a mask; {type(error).__name__}: {error}") from error
    if found.dtype == torch.bool and found.shape == (count,):
        return found.nonzero()[:, 0]
    if found.dim() != 1 or found.dtype == torch.bool or found.is_floating_point():
        raise UserError(
            f"expected nodes as numbers (T,), or as a mask ({count},); got {found.dtype} {tuple(found.shape)}"
        )
    return found.long()


def _listed(batch: GraphBatch, y: Tensor | None) -> list[Data]:
    """Return the graphs of a batch of neighbourhoods, each with its node's ``y``."""
    graphs = []
    for i in range(batch.num_graphs):
        nodes, edges = (slice(*ptr[i : i + 2].tolist()) for ptr in (batch.node_ptr, batch.edge_ptr))
        target = batch["target"][i : i + 1]
        graphs.append(
            Data(
                edge_index=batch.edge_index[:, edges] - nodes.start,
                num_nodes=nodes.stop - nodes.start,
                target=target,
                **{name: value[nodes] for name, value in batch.node.items()},
                **{name: value[edges] for name, value in batch.edge.items()},
                **({} if y is None else {"y": y[batch["node_id"][nodes][target]]}),
            )
        )
    return graphs
