"""Models that the harness can explain: a torch module that maps a batch of graphs to its outputs."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .graphs import GraphBatch


class GraphModel(nn.Module):
    """A model in two parts: what comes before the first message, and the rest.

    Nothing that :meth:`encode` does can depend on a gate, so it is computed once for all gated passes over a batch.
    A model whose author cannot split it leaves ``encode`` alone and does everything in ``decode``.
    Messages must be passed by PyG's ``MessagePassing`` layers, or by ``AdjacencyLayer``, inside ``decode``.
    """

    def encode(self, graphs: GraphBatch) -> Any:
        """Return what ``decode`` needs from before the first message: a tensor, or a tuple of tensors."""
        return None

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        """Pass the messages and return the outputs; for graph classification logits ``(G, C)``."""
        raise NotImplementedError

    def gate_modules(self) -> list[nn.Module]:
        """Return the modules whose outputs ``(E,)`` or ``(E, 1)`` are the model's own gates, if its messages have any.

        Exactly one of them must be called in every message-passing call.
        """
        return []

    @property
    def called(self) -> str:
        """What it is called when something is wrong: its class, or that of the model which it only calls."""
        return type(getattr(self, "module", self)).__name__

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Return the outputs for a batch of graphs."""
        return self.decode(graphs, self.encode(graphs))


class PyGModel(GraphModel):
    """Any PyG model, called with the named tensors of a batch.

    Args:
        module: for instance a ``torch_geometric.nn.models`` network with a readout.
        arguments: names of what it is called with, in order: ``edge_index``, ``batch``, or tensors of the batch.
    """

    def __init__(self, module: nn.Module, *arguments: str) -> None:
        super().__init__()
        self.module = module
        self.arguments = arguments

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        """Call the module."""
        output: Tensor = self.module(*(graphs[name] for name in self.arguments))
        return output


class AsPyG(nn.Module):
    """A :class:`GraphModel` in the form in which PyG's explainers call models: ``module(x, edge_index)``.

    Args:
        model: the model.
        graphs: the batch that ``edge_index`` belongs to.
        x: name of the node tensor that is passed as ``x``.
    """

    def __init__(self, model: GraphModel, graphs: GraphBatch, x: str = "x") -> None:
        super().__init__()
        self.model = model
        self.graphs = graphs
        self.x = x

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Run the model on the batch with these node features and edges."""
        node = {**self.graphs.node, self.x: x}
        output: Tensor = self.model(replace(self.graphs, node=node, edge_index=edge_index))
        return output
