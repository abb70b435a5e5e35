"""b of Equation 3: what takes the place of a message whose gate is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .graphs import GraphBatch, Part

_SHAPES = {"shared": "(D,)", "per graph": "(G, D)", "per edge": "(E, D)"}


@dataclass(frozen=True, eq=False)
class Baseline:
    """b of one layer in z * m + (1 - z) * b (Eq. 3), made by :meth:`shared`, :meth:`per_graph` or :meth:`per_edge`.

    D is the width of the layer's messages, or 1: one scalar for all values of a message.

    Args:
        values: ``(D,)``, ``(G, D)`` or ``(E, D)``.
        kind: what has a row of its own.
        noise: ``(N, D)`` of a shared one that is drawn for every message, see :meth:`drawn`; None where it is not.

    Raises:
        ValueError: on values of another shape.
    """

    values: Tensor
    kind: Literal["shared", "per graph", "per edge"]
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != (1 if self.kind == "shared" else 2):
            got = tuple(self.values.shape)
            raise ValueError(f"expected a baseline of shape {_SHAPES[self.kind]}, {self.kind}; got {got}")

    @classmethod
    def shared(cls, values: Tensor) -> Baseline:
        """Return the baseline that all messages share, ``(D,)``."""
        return cls(values, "shared")

    @classmethod
    def per_graph(cls, values: Tensor) -> Baseline:
        """Return a baseline for the messages of each graph, ``(G, D)``."""
        return cls(values, "per graph")

    @classmethod
    def per_edge(cls, values: Tensor) -> Baseline:
        """Return a baseline for each message, ``(E, D)``."""
        return cls(values, "per edge")

    @classmethod
    def drawn(cls, mean: Tensor, noise: Tensor) -> Baseline:
        """Return a baseline that is drawn anew for every message, for layers that sum messages by matrices.

        Nothing is drawn for a message there: the sum of the draws that reach a node is drawn once.

        Args:
            mean: ``(D,)``, of the draws.
            noise: ``(N, D)``, for every node one draw of what a message has beyond the mean.
        """
        return cls(mean, "shared", noise)

    @property
    def width(self) -> int:
        """D."""
        return self.values.shape[-1]

    def check(self, graphs: GraphBatch, width: int | None = None, name: str = "a baseline") -> None:
        """Raise ValueError unless it is one of ``graphs``, and of messages of a ``width`` where that is given."""
        count = graphs.num_graphs if self.kind == "per graph" else graphs.num_edges
        if self.noise is not None and self.noise.shape != (graphs.num_nodes, self.width):
            expected = (graphs.num_nodes, self.width)
            raise ValueError(f"expected noise of {name} of shape {expected}; got {tuple(self.noise.shape)}")
        if self.kind != "shared" and len(self.values) != count:
            raise ValueError(f"expected {name} of {count} rows, one {self.kind}; got {len(self.values)}")
        if width is not None and self.width not in (1, width):
            raise ValueError(f"expected {name} of width {width} as of the messages, or 1; got {self.width}")

    def spread(self, graphs: GraphBatch) -> Tensor:
        """Return b of every message of ``graphs``: ``(E, D)``, or ``(1, D)`` where all share it."""
        if self.noise is not None:
            raise ValueError("expected a baseline for every message; got draws for every node, which lists cannot use")
        if self.kind == "per graph":
            return self.values[graphs.edge_graph]
        return self.values if self.kind == "per edge" else self.values[None]

    def select(self, graphs: Tensor | slice, edges: Tensor | slice) -> Baseline:
        """Return the baseline of some graphs of a batch, given where they and their edges are in it."""
        if self.noise is not None:
            raise ValueError("expected a baseline of graphs; got draws for nodes of one batch: draw for each part")
        if self.kind == "shared":
            return self
        return replace(self, values=self.values[graphs if self.kind == "per graph" else edges])

    @staticmethod
    def join(parts: Sequence[Baseline], graphs: Sequence[GraphBatch]) -> Baseline:
        """Return the baseline of a batch, from those of consecutive parts of it, made of the batches ``graphs``.

        One that all parts share stays so; others become one per graph, or per edge where a part has one per edge.
        """
        if any(b.noise is not None for b in parts):
            raise ValueError("expected baselines of graphs; got draws for nodes of one batch: draw for each part")
        first, pairs = parts[0], list(zip(parts, graphs, strict=True))
        if all(b.kind == "shared" and torch.equal(b.values, first.values) for b in parts):
            return first
        if len({b.width for b in parts}) > 1:
            widths = ", ".join(str(b.width) for b in parts)
            raise ValueError(f"expected baselines of one width for all parts of a batch; got {widths}")
        if any(b.kind == "per edge" for b in parts):
            return Baseline.per_edge(torch.cat([b.spread(part).expand(part.num_edges, -1) for b, part in pairs]))
        return Baseline.per_graph(torch.cat([b.values.expand(part.num_graphs, -1) for b, part in pairs]))


def as_baselines(given: Sequence[Tensor | Baseline] | None) -> tuple[Baseline, ...] | None:
    """Return baselines of which some may be given as tensors: ``(D,)`` is shared, ``(G, D)`` per graph.

    Raises:
        ValueError: on tensors of another shape.
    """
    return None if given is None else tuple(_as_baseline(k, b) for k, b in enumerate(given))


def _as_baseline(k: int, b: Tensor | Baseline) -> Baseline:
    if isinstance(b, Baseline):
        return b
    kinds = {1: Baseline.shared, 2: Baseline.per_graph}
    if b.dim() not in kinds:
        raise ValueError(f"expected baseline {k} of shape (D,) or (G, D); got {tuple(b.shape)}")
    return kinds[b.dim()](b)


def part_of_baselines(
    given: Sequence[Tensor | Baseline] | None, graphs: GraphBatch, part: Part
) -> tuple[Baseline, ...] | None:
    """Return the baselines of a part of a batch, from those of the whole one as :func:`as_baselines` takes them.

    Raises:
        ValueError: on tensors of another shape, and where they are of other graphs than the whole batch.
    """
    whole = as_baselines(given)
    if whole is None:
        return None
    for k, b in enumerate(whole):  # a slice of too many rows would pass
        b.check(graphs, None, f"a baseline for call {k}")
    return tuple(b.select(part.graphs, part.edges) for b in whole)
