"""What an attribution method is: what it may see, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

from ..base.limits import MAX_EDGES
from ..model.baseline import Baseline, as_baselines
from ..model.driver_list import layers_without_messages
from ..model.gates import Gates
from ..model.graphs import GraphBatch
from ..model.model import GraphModel
from ..model.output import Output
from .rival import Rival

T = TypeVar("T")

config = validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
"""Decorator for configurations: frozen dataclasses whose values are validated (pydantic)."""


@dataclass(frozen=True, eq=False)
class Subject:
    """All that a method may see of a problem: the trained model and unlabelled graphs.

    There are no labels, no gold and no test split in it.

    Args:
        model: the trained model; drive it through :class:`~attribench.Gates`.
        output: what its output means, and D*.
        train: graphs to fit on.
        validation: graphs to choose checkpoints on.
        num_layers: L.
        max_edges: the most edges that one pass should hold (``--max-edges``): the harness splits what it has explained,
            a method splits what it fits on (see :meth:`~attribench.Gates.stream`).
        replay: as for :class:`~attribench.Gates`.
        without_gradient: layers whose gates change the output though no gradient reaches them.
    """

    model: GraphModel
    output: Output
    train: GraphBatch
    validation: GraphBatch
    num_layers: int
    max_edges: int = MAX_EDGES
    replay: bool = False
    without_gradient: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of every layer and edge over a batch of G graphs with E edges.

    Args:
        scores: ``(L, E)``; larger means that the message matters more.
        scale: ``gate`` for scores in [0, 1] that are thresholded as they are; ``relative`` for all others, which the
            harness divides by the largest absolute value in the graph, over all layers.
        hard_mask: ``(L, E)`` bool where the method itself decides which messages are retained.
        baselines: b of Eq. 3 for every layer where the method learned them: ``(D,)``, shared, or ``(G, D)``, per graph.
        diagnostics: figures ``(G,)`` per graph that the method reports about itself.
        per_layer: False where one mask serves all layers (the rows of ``scores`` are then equal).
        complete: ``(G,)`` bool, False for graphs that the method could not finish within its budget; all where None.

    Raises:
        ValueError: on wrong shapes, values that are not finite, or gates outside [0, 1].
    """

    scores: Tensor
    scale: Literal["gate", "relative"] = "gate"
    hard_mask: Tensor | None = None
    baselines: tuple[Tensor, ...] | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    per_layer: bool = True
    complete: Tensor | None = None

    def __post_init__(self) -> None:
        tensors = [self.scores, *(self.baselines or ()), *self.diagnostics.values()]
        if self.scores.dim() != 2:
            raise ValueError(f"expected scores of shape (L, E); got {tuple(self.scores.shape)}")
        if not self.scores.is_floating_point():
            raise ValueError(f"expected floating-point scores; got {self.scores.dtype}")
        if self.complete is not None and self.complete.dtype != torch.bool:
            raise ValueError(f"expected bool for complete; got {self.complete.dtype}")
        if self.scale not in ("gate", "relative"):
            raise ValueError(f"expected scale 'gate' or 'relative'; got {self.scale!r}")
        if not all(bool(torch.isfinite(x).all()) for x in tensors):
            raise ValueError("expected finite scores, baselines and diagnostics; got NaN or infinity")
        if self.scale == "gate" and self.scores.numel() and not 0 <= self.scores.min() <= self.scores.max() <= 1:
            raise ValueError(
                f"expected gates in [0, 1]; got {float(self.scores.min()):.3g} to {float(self.scores.max()):.3g}: "
                "return scale='relative' for other scores"
            )
        if self.hard_mask is not None and (
            self.hard_mask.dtype != torch.bool or self.hard_mask.shape != self.scores.shape
        ):
            raise ValueError(f"expected a bool hard_mask of shape {tuple(self.scores.shape)}")
        if self.baselines is not None and len(self.baselines) != len(self.scores):
            raise ValueError(f"expected {len(self.scores)} baselines; got {len(self.baselines)}")
        as_baselines(self.baselines)  # which refuses other shapes

    @property
    def learned(self) -> tuple[Baseline, ...] | None:
        """The baselines with what they are: shared, or per graph."""
        return as_baselines(self.baselines)

    def check(self, graphs: GraphBatch, num_layers: int) -> None:
        """Raise ValueError unless the attribution is one of ``graphs`` with L = ``num_layers``."""
        expected = (num_layers, graphs.num_edges)
        if self.scores.shape != expected:
            raise ValueError(f"expected scores of shape (L, E) = {expected}; got {tuple(self.scores.shape)}")
        per_graph = self.diagnostics if self.complete is None else {**self.diagnostics, "complete": self.complete}
        for name, value in per_graph.items():
            if value.shape != (graphs.num_graphs,):
                raise ValueError(f"expected {name!r} of shape ({graphs.num_graphs},); got {tuple(value.shape)}")
        for k, baseline in enumerate(self.learned or ()):
            baseline.check(graphs, name=f"baseline {k}")

    def select(self, graphs: GraphBatch, index: Tensor) -> Attribution:
        """Return the attribution of the graphs ``index`` of the batch that this one explains."""
        edges = graphs.edges_of(index)
        return replace(
            self,
            scores=self.scores[:, edges],
            hard_mask=None if self.hard_mask is None else self.hard_mask[:, edges],
            baselines=None if self.learned is None else tuple(b.select(index, edges).values for b in self.learned),
            diagnostics={name: value[index] for name, value in self.diagnostics.items()},
            complete=None if self.complete is None else self.complete[index],
        )

    @staticmethod
    def concat(parts: Sequence[Attribution], graphs: Sequence[GraphBatch]) -> Attribution:
        """Join the attributions of consecutive parts of a batch, made of the batches ``graphs``.

        Baselines are joined as :meth:`.Baseline.join` says.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        if {(part.scale, part.per_layer) for part in parts} != {(first.scale, first.per_layer)}:
            raise ValueError("expected one scale for all parts of a batch; got several")

        def optional(values: Sequence[Tensor | None], dim: int) -> Tensor | None:
            present = [value for value in values if value is not None]
            if len(present) not in (0, len(values)):
                raise ValueError("expected the same fields for all parts of a batch; got others")
            return torch.cat(present, dim) if present else None

        learned = [part.learned or () for part in parts]
        if len({len(own) for own in learned}) > 1:
            raise ValueError("expected baselines of as many layers for all parts of a batch; got others")
        baselines = tuple(Baseline.join(column, graphs).values for column in zip(*learned, strict=True))
        return replace(
            first,
            scores=torch.cat([part.scores for part in parts], 1),
            hard_mask=optional([part.hard_mask for part in parts], 1),
            baselines=baselines or None,
            diagnostics={name: torch.cat([part.diagnostics[name] for part in parts]) for name in first.diagnostics},
            complete=optional([part.complete for part in parts], 0),
        )


@config
class NoConfig:
    """The configuration of a method without options."""


def untracked(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate without a progress bar."""
    return items


class Method(ABC):
    """An attribution method. One instance explains one model with one seed.

    Subclasses set ``name`` and, where there are options, ``Config``; the runner calls :meth:`supports`, :meth:`fit`
    and then :meth:`attribute` on every split.

    Args:
        config: an instance of ``Config``.
        subject: what to explain.
        seed: the fit seed; the only source of randomness.
        track: wraps a loop in a progress bar.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]] = NoConfig
    #: Overrides with which the contract suite runs quickly and without a feasibility constraint.
    quick: ClassVar[dict[str, Any]] = {}
    #: The option that counts optimisation steps, and the phase it drives; ``bench`` varies it to time one step.
    steps_option: ClassVar[tuple[str, Literal["fit", "attribute"]] | None] = None
    #: Whether the method follows gradients with respect to gates; it is skipped where a layer has none.
    needs_gradients: ClassVar[bool] = True
    #: Whether the method reads each message as a vector; it is skipped where a layer sends none, and asks a call only
    #: for its edges, states, width and inputs otherwise.
    needs_messages: ClassVar[bool] = False
    #: Whether the method decides what is retained, so that no threshold has to be chosen on validation graphs.
    decides: ClassVar[bool] = False
    #: How many graphs the method wants to fit on at least; it is skipped where there are fewer.
    fewest_to_fit: ClassVar[int] = 0
    #: Other implementations to be timed beside this one.
    rivals: ClassVar[tuple[Rival, ...]] = ()

    def __init__(
        self, config: Any = None, *, subject: Subject, seed: int = 0, track: Callable[..., Any] = untracked
    ) -> None:
        self.config = self.Config() if config is None else config
        self.subject = subject
        self.seed = seed
        self.track = track
        self.forward_passes = 0
        #: Figures about the fit that become columns ``fit_...`` of the scores, such as the number of restarts.
        self.figures: dict[str, float] = {}

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return next(iter((cls.__doc__ or "").strip().splitlines()), "(no docstring)")

    @classmethod
    def sources(cls, config: Any) -> dict[str, Path]:
        """Return the files that the method reads, by name; what is in them decides the results as code does."""
        return {}

    @classmethod
    def supports(cls, subject: Subject) -> str | None:
        """Return the reason why the method cannot explain this model, or None."""
        return None

    @classmethod
    def reason_against(cls, subject: Subject) -> str | None:
        """Return the reason why the method is not run on this model, the harness's or its own; None where it is."""
        if cls.needs_gradients and subject.without_gradient:
            layers = ", ".join(map(str, subject.without_gradient))
            return (
                f"no gradient reaches the gates of layer {layers} (counted from 0), which the output depends on: the "
                "model detaches what it computes from them; methods that need none say needs_gradients = False"
            )
        bare = layers_without_messages(subject.model) if cls.needs_messages else []
        if bare:
            return (
                f"{', '.join(bare)} sends no message as a vector, which the method reads; methods that read none say "
                "needs_messages = False"
            )
        return cls.supports(subject)

    def fit(self) -> None:  # noqa: B027 - optional
        """Learn from ``self.subject.train``; per-instance methods have nothing to do.

        Raises:
            Infeasible: when no explanation meets the method's own constraint.
            Skipped: when the method is not made for graphs like these.
        """

    @abstractmethod
    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Explain all graphs of a batch at once. A graph's scores must not depend on what else is in the batch."""

    def explain(self, graphs: GraphBatch) -> Attribution:
        """Explain a batch of any size, in parts of at most ``subject.max_edges`` edges; check what comes back."""
        parts = [part.batch for part in graphs.parts(self.subject.max_edges)]
        found = [self.attribute(part) for part in parts]
        for one in found:
            if not isinstance(one, Attribution):
                got = type(one).__name__
                raise TypeError(f"expected an Attribution from attribute() of {self.name}; got {got}: return one")
        attribution = Attribution.concat(found, parts)
        attribution.check(graphs, self.subject.num_layers)
        return attribution

    def gates(self) -> Gates:
        """Return the gates of the subject's model (a context manager); its passes count towards the method's cost."""
        return _CountingGates(self)


class _CountingGates(Gates):
    """Gates that add their forward passes to the method's."""

    def __init__(self, method: Method) -> None:
        super().__init__(method.subject.model, replay=method.subject.replay)
        self._method = method

    def _run(self, *args: Any) -> Tensor:
        self._method.forward_passes += 1
        return super()._run(*args)
