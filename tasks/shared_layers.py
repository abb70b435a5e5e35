"""The relay with one layer that is applied K times, as in a model whose layers share their parameters.

Data, algorithm and gold are those of `relay`, whose docstring has the proof. A method that takes a layer for a
module, rather than for a call of it, cannot tell the K gates of an edge apart here.
"""

from __future__ import annotations

from attribench.plugins.registry import TASKS

from ._layered import LayeredModel
from .relay import Relay


@TASKS.register
class SharedLayers(Relay):
    """The relay with one layer applied K times. Gold: edge i of the path in the i-th call alone."""

    name = "shared-layers"

    def model(self, width: int) -> LayeredModel:
        """Use the first layer in every call."""
        model = super().model(width)
        for k in range(1, len(model.layers)):
            model.layers[k] = model.layers[0]
        return model
