"""PyG models as they are: called with what their ``forward`` names, or with a ``Data`` object, on a batch of graphs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from ..base.errors import UserError
from .graphs import GraphBatch
from .model import GraphModel

_ALWAYS = ("edge_index", "batch")
_LABELS = "y"


class CalledByName(GraphModel):
    """A PyG model that is called as ``forward(x, edge_index[, edge_attr | edge_weight][, batch])``, by name.

    Args:
        module: the model.
        arguments: names of what it is called with: ``edge_index``, ``batch``, or tensors of the batch.
    """

    def __init__(self, module: nn.Module, arguments: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.arguments = tuple(arguments)

    def decode(self, graphs: GraphBatch, state: None) -> Tensor:
        """Call the module."""
        output: Tensor = self.module(**{name: graphs[name] for name in self.arguments})
        return output


class CalledWithData(GraphModel):
    """A PyG model that is called as ``forward(data)``, with the batch as PyG would make it.

    Args:
        module: the model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def decode(self, graphs: GraphBatch, state: None) -> Tensor:
        """Call the module."""
        data = Batch(
            edge_index=graphs.edge_index,
            batch=graphs.batch,
            ptr=graphs.node_ptr,
            **graphs.node,
            **graphs.edge,
            **graphs.graph,
        )
        data._num_graphs, data.num_nodes = graphs.num_graphs, graphs.num_nodes
        output: Tensor = self.module(data)
        return output


def adapted(
    module: nn.Module, levels: Mapping[str, Sequence[str]], arguments: Sequence[str] | None = None
) -> tuple[GraphModel, dict[str, list[str]]]:
    """Return a model that the harness can explain, and the attributes that it reads, by level.

    Args:
        module: a PyG model; a :class:`GraphModel` is returned as it is, and given everything.
        levels: the names of the attributes that all graphs have, by ``node``, ``edge`` and ``graph``.
        arguments: what it is called with, where its ``forward`` does not name attributes.

    Raises:
        UserError: when it cannot be told how the model is called.
    """
    everything = {level: list(names) for level, names in levels.items()}
    if isinstance(module, GraphModel):
        return module, everything
    if arguments is None:
        arguments = _arguments(module, {name for names in levels.values() for name in names})
    if arguments is None:
        return CalledWithData(module), everything
    return CalledByName(module, arguments), {
        level: [name for name in names if name in arguments] for level, names in levels.items()
    }


def _arguments(module: nn.Module, known: set[str]) -> list[str] | None:
    """Return what a model's ``forward`` is called with by name; None where it takes one ``Data`` object."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    there = {*known, *_ALWAYS}
    required = [p.name for p in named if p.default is p.empty]
    unknown = [name for name in required if name not in there]
    if not unknown and required:
        return [p.name for p in named if p.name in there and p.name != _LABELS]
    if len(required) == 1:
        return None
    raise UserError(
        f"expected a model with forward(data) or forward(x, edge_index[, edge_attr | edge_weight][, batch]); "
        f"{type(module).__name__} wants {', '.join(required) or 'nothing'}, and the graphs have "
        f"{', '.join(sorted(known))}: name what it is called with in arguments=[...]"
    )


def attributes_of(graphs: Sequence[Data]) -> dict[str, list[str]]:
    """Return the names of the tensors that all graphs have, by level: labels ``y`` are none of them.

    An attribute is a node's, or an edge's, where every graph has one row for each; the name decides as in PyG where
    both fit.
    """
    names = [name for name in graphs[0].to_dict() if name not in ("edge_index", "num_nodes", "ptr", "batch", _LABELS)]
    shared = [name for name in names if all(isinstance(data.get(name), Tensor) for data in graphs)]
    levels: dict[str, list[str]] = {"node": [], "edge": [], "graph": []}
    for name in shared:
        rows = [int(data[name].shape[0]) if data[name].dim() else -1 for data in graphs]
        fits = {
            "node": rows == [int(data.num_nodes or 0) for data in graphs],
            "edge": rows == [int(data.num_edges) for data in graphs],
            "graph": set(rows) <= {-1, 1},
        }
        if fits["node"] and fits["edge"]:
            fits["node" if "edge" not in name else "edge"], fits["edge" if "edge" not in name else "node"] = True, False
        level = next((level for level, right in fits.items() if right), None)
        if level is not None:
            levels[level].append(name)
    return levels


def on_cpu(graphs: Sequence[Data]) -> list[Data]:
    """Return graphs whose tensors are on the CPU and part of no computation."""
    return [data.clone().apply(lambda x: x.detach().to(torch.device("cpu"))) for data in graphs]
