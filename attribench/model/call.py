"""A call: what one layer read and sent in the unmasked pass, as methods may ask for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .refusals import UnsupportedModelError


@dataclass(frozen=True, eq=False)
class Call:
    """What one layer read and sent in one unmasked pass, over all edges of the batch.

    Where the layer passes messages over subsets of the edges, one after the other, these are told apart by ``carried``
    alone: everything else stands in the order of the graphs' edges.

    Args:
        sent: ``(E + S, ...)``, the messages of the E edges and of S self-loops that the layer appended; None where the
            layer sends no message as a vector, as layers of adjacency matrices do.
        h_source, h_target: ``(N, H)``, the layer's inputs h(k-1) by source and by target node.
        source, target: ``(E,)``, the nodes u and v of every edge.
        width: D, the number of values in one message.
        carried: the edges that each of the layer's calls carries, every edge in one; None where one carries all.
    """

    sent: Tensor | None
    h_source: Tensor
    h_target: Tensor
    source: Tensor
    target: Tensor
    width: int
    carried: tuple[Tensor, ...] | None = None

    @property
    def messages(self) -> Tensor:
        """The messages ``(E + S, ...)``.

        Raises:
            UnsupportedModelError: where the layer sends no message as a vector.
        """
        if self.sent is None:
            raise UnsupportedModelError(
                "expected a layer that sends each message as a vector; got one that sends none: a method that reads "
                "them says needs_messages = True, and is then skipped"
            )
        return self.sent

    def flat_messages(self) -> Tensor:
        """Return the messages of the real edges as ``(E, D)``."""
        return self.messages[: self.source.numel()].reshape(self.source.numel(), self.width)

    def read(self) -> list[Tensor]:
        """Return what is read of the layer, a row for every edge: the parts of :meth:`inputs`."""
        return self._parts()

    def _parts(self) -> list[Tensor]:
        """Return h_u, h_v ``(E, H)`` each, and m ``(E, D)`` where there is a message."""
        h_u, h_v = self.h_source[self.source].flatten(1), self.h_target[self.target].flatten(1)
        return [h_u, h_v] if self.sent is None else [h_u, h_v, self.flat_messages()]

    def inputs(self) -> Tensor:
        """Return [h_u, h_v, m] of Eq. 6, ``(E, 2 H + D)``, all from before the aggregation: no look-ahead.

        Where there is no message it is [h_u, h_v], ``(E, 2 H)``.
        """
        return torch.cat(self._parts(), dim=-1)

    @property
    def inputs_width(self) -> int:
        """The width of :meth:`inputs`."""
        nodes = math.prod(self.h_source.shape[1:]) + math.prod(self.h_target.shape[1:])
        return nodes if self.sent is None else nodes + self.width

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return ``F.linear(inputs(), weight, bias)`` ``(E, O)``; what nodes share is multiplied once for each of them.

        Args:
            weight: ``(O, 2 H + D)``.
            bias: ``(O,)``.
        """
        h_u, h_v = self.h_source.flatten(1), self.h_target.flatten(1)
        parts = weight.split([h_u.shape[1], h_v.shape[1], *([] if self.sent is None else [self.width])], dim=1)
        projected = F.linear(h_u, parts[0], bias)[self.source] + F.linear(h_v, parts[1])[self.target]
        return projected if self.sent is None else projected + F.linear(self.flat_messages(), parts[2])
