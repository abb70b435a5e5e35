"""Why a model's messages cannot be gated exactly: the cause that was found, and what to do about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from ..base.errors import UserError
from .graphs import GraphBatch

Why = tuple[str, str]
"""What a layer does, and the remedy."""

_IN_THE_DATA = "graphs that have all edges from the start: torch_geometric.transforms has VirtualNode, ToUndirected ..."
_BY_RELATION = ("RGCNConv", "CuGraphRGCNConv", "HGTConv", "HANConv", "HEATConv", "FiLMConv")


class UnsupportedModelError(UserError):
    """A model whose messages cannot be gated exactly; says what to use instead."""


def refusal(layer: str, what: str, remedy: str) -> str:
    """Return the line that refuses a layer."""
    return f"expected layers that send one message per edge in one call; {layer} {what}: use {remedy}"


def compiled(model: nn.Module) -> str | None:
    """Return why a compiled model cannot be gated, None for others: hooks are not part of what was compiled."""
    for name, module in model.named_modules():
        path = f"model.{name}" if name else "the model"
        expected = "expected a model that runs as Python, so that its messages can be seen"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{expected}; {path} is scripted: use the module that was given to torch.jit"
        if type(module).__name__ == "OptimizedModule":
            return f"{expected}; {path} is compiled: use {path}._orig_mod, or explain before torch.compile"
        if getattr(module, "_compiled_call_impl", None) is not None:
            return f"{expected}; {path} is compiled: leave out {path}.compile() where it is explained"
    return None


def other_edges(layer: MessagePassing, edges: Tensor, graphs: GraphBatch) -> Why | None:
    """Return why a layer's edges are not the batch's, in their order, followed by self-loops or nothing.

    Args:
        layer: that passes messages.
        edges: ``(2, E + S)``, along which it does.
        graphs: the batch.
    """
    mine, count, given = graphs.edge_index, graphs.num_edges, edges.shape[1]
    has_loops = bool((mine[0] == mine[1]).any()) if given != count or getattr(layer, "add_self_loops", False) else None
    if edges is mine or (given == count and torch.equal(edges, mine)):
        # A layer that adds loops to graphs that have some replaces these, so that no order can be relied on.
        return _loops() if has_loops else None
    if given > count and torch.equal(edges[:, :count], mine):
        extra = edges[:, count:]
        if torch.equal(extra[0], extra[1]):
            return _loops() if has_loops else None
        return f"passes {given - count} messages over edges that it adds to the graphs'", _IN_THE_DATA
    if getattr(layer, "cached", False):
        return "keeps the edges of the first batch that it saw", "cached=False"
    if bool((mine[0] == mine[1]).any()) and getattr(layer, "add_self_loops", False):
        return _loops()
    return _rewired(layer, edges, graphs)


def _loops() -> Why:
    return (
        "adds self-loops to graphs that have some, and moves or replaces these",
        "graphs without self-loops (torch_geometric.utils.remove_self_loops), or add_self_loops=False",
    )


def _rewired(layer: MessagePassing, edges: Tensor, graphs: GraphBatch) -> Why:
    """Tell edges that were dropped, turned, sorted or made up apart."""
    mine, count, given = graphs.edge_index, graphs.num_edges, edges.shape[1]
    if any(kind.__name__ in _BY_RELATION for kind in type(layer).__mro__):
        what = f"passes messages for one relation at a time, now over {given} of {count} edges"
        return what, "RGCNConv or FastRGCNConv, with their own forward and aggregate"
    if given < count:
        what = f"passes {given} messages where the graphs have {count} edges: some were dropped before it"
        return what, "pooling (TopKPooling, SAGPooling ...) after the last layer only, and no sampling of edges"
    if given == count and torch.equal(edges, mine.flip(0)):
        return "passes messages against the edges", "a layer with flow='target_to_source' for that direction"
    if given == count and torch.equal(_sorted(edges), _sorted(mine)):
        return "passes messages over the edges in another order", "data.coalesce() before the batch is made"
    if given > count:
        return f"passes {given} messages where the graphs have {count} edges", _IN_THE_DATA
    return "passes messages over other edges than the graphs'", "edges that are made before the batch, not in the model"


def _sorted(edges: Tensor) -> Tensor:
    order = edges[1].argsort(stable=True)
    return edges[:, order[edges[0][order].argsort(stable=True)]]
