"""What is scored of one row of the tables, a method's or a control's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .scorers import Value


@dataclass
class Scores:
    """Everything scored about one row: a method, or a control.

    Args:
        method: the method's name, or the control's.
        kind: ``method`` or ``control``.
        figures: flat figures of the row.
        per_graph: columns of one value per scored graph.
        layers: one dict of figures per layer.
        unfinished: test graphs that the method did not finish and that are not scored.
        mask: the mask that was scored ``(L, E)`` bool, over the edges of the graphs that ``per_graph`` has; None where
            nothing was scored. Its threshold and who chose it are figures.
    """

    method: str
    kind: str
    figures: dict[str, Value]
    per_graph: dict[str, np.ndarray] = field(default_factory=dict)
    layers: list[dict[str, Value]] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    mask: np.ndarray | None = None


def of_fit(figures: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a method says of its fit under the names of its columns."""
    return {f"fit_{name}": value for name, value in figures.items()}
