"""Which driver drives which type of layer: the one list that a new kind of layer is entered in."""

from __future__ import annotations

from torch import nn
from torch_geometric.nn import FastRGCNConv, MessagePassing, RGCNConv

from .adjacency import AdjacencyLayer
from .adjacency_driver import AdjacencyDriver
from .driver import Driver, Session
from .pyg import PyGDriver
from .relational import RelationalDriver

DRIVERS: list[tuple[type[nn.Module], type[Driver]]] = [
    (FastRGCNConv, PyGDriver),  # which is an RGCNConv to Python
    (RGCNConv, RelationalDriver),
    (MessagePassing, PyGDriver),
    (AdjacencyLayer, AdjacencyDriver),
]
"""Types of layers and their drivers; the first that matches and fits drives the layer."""


def driver_of(layer: nn.Module) -> type[Driver] | None:
    """Return the driver of a layer, None for modules that pass no messages."""
    return next((driver for kind, driver in DRIVERS if isinstance(layer, kind) and driver.fits(layer)), None)


def drivers(model: nn.Module, session: Session) -> list[Driver]:
    """Return a driver for every layer of a model that passes messages."""
    found = ((module, driver_of(module)) for module in model.modules())
    return [driver(module, session) for module, driver in found if driver is not None]


def layers_without_messages(model: nn.Module, *but: type[Driver]) -> list[str]:
    """Return the types of a model's layers that send no message as a vector, which some methods read.

    Args:
        model: the model.
        *but: drivers whose layers are left out.
    """
    kinds = {type(module).__name__: driver_of(module) for module in model.modules()}
    return [name for name, kind in kinds.items() if kind is not None and kind not in but and not kind.sends_vectors]
