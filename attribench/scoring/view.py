"""What a scorer is given: all that is known of one row, a method's or a control's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..model.gates import Stream
from ..model.graphs import GraphBatch
from ..model.output import Output
from ..plugins.masks import normalise
from ..plugins.method import Attribution
from ..plugins.task import Problem
from .decision import Decision


@dataclass(frozen=True, eq=False)
class View:
    """What is known of one row, a method's or a control's, when it is scored: everything is of the test graphs.

    Args:
        problem: what is explained.
        recording: drives the model over the test graphs.
        attribution: what was said of them.
        decision: which messages count as retained.
        randomised: what was said of the first of them when the model's weights were shuffled, where that was asked.
        kind: ``method`` or ``control``.
        ablated: returns the task's metric with one layer's messages dropped, for each layer.
    """

    problem: Problem
    recording: Stream
    attribution: Attribution
    decision: Decision
    randomised: Attribution | None = None
    kind: str = "method"
    ablated: Callable[[], Sequence[float]] = tuple

    @property
    def graphs(self) -> GraphBatch:
        """The test graphs: G graphs with E edges."""
        return self.recording.graphs

    @property
    def output(self) -> Output:
        """What the model's output means."""
        return self.problem.output

    def given(self) -> list[Tensor]:
        """Return the tensors that a scorer is given, and must leave as they are."""
        graphs, attribution, own = self.graphs, self.attribution, self.decision
        levels = [x for level in (graphs.node, graphs.edge, graphs.graph) for x in level.values()]
        found = [
            self.labels,
            self.gold,
            own.mask,
            graphs.edge_index,
            *levels,
            attribution.scores,
            attribution.hard_mask,
        ]
        return [x for x in (*found, *(attribution.baselines or ()), self.recording.logits) if isinstance(x, Tensor)]

    @property
    def labels(self) -> Tensor:
        """One per unit of output."""
        return self.problem.splits["test"].labels

    @property
    def gold(self) -> Tensor | None:
        """Bool ``(L, E)``, or ``(1, E)`` where only the union over the layers is known."""
        return self.problem.splits["test"].gold

    @property
    def truth(self) -> Tensor:
        """The gold, for scorers that need one.

        Raises:
            ValueError: where there is none.
        """
        if self.gold is None:
            raise ValueError("expected a gold standard; there is none: let the scorer say needs=[GOLD]")
        return self.gold

    @property
    def mask(self) -> Tensor:
        """The mask that is scored ``(L, E)`` bool: its share, its prediction and its overlap with the gold."""
        return self.decision.mask

    @property
    def baselines(self) -> Sequence[Tensor] | None:
        """The method's own baselines, where it learned them; zero where None."""
        return self.attribution.baselines

    @cached_property
    def values(self) -> Tensor:
        """Scores in [0, 1] ``(L, E)``; see :func:`.normalise`."""
        return normalise(self.attribution, self.graphs)

    @property
    def ablations(self) -> Sequence[float]:
        """The task's metric with one layer's messages dropped, for each layer."""
        return self.ablated()

    @cached_property
    def classes(self) -> np.ndarray | None:
        """The class ``(G,)`` that the model predicts for every graph; None where it predicts none."""
        classes = self.output.classes(self.recording.logits, self.graphs)
        return None if classes is None else classes.cpu().numpy()

    @property
    def by_class(self) -> list[tuple[int, np.ndarray]]:
        """Every predicted class with which graphs have it ``(G,)`` bool; none where it predicts none."""
        classes = self.classes
        return [] if classes is None else [(label, classes == label) for label in np.unique(classes)]
