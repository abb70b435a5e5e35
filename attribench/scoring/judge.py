"""Who judges: makes one decision for each row, a method's or a control's, and runs all scorers over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..base.limits import MAX_EDGES
from ..base.pieces import Cell
from ..base.seeds import derive
from ..plugins.masks import normalise, random_like, threshold
from ..plugins.method import Attribution
from ..plugins.task import Problem
from ..scoring import (
    scorers_decision,
    scorers_gold,
    scorers_grids,
    scorers_model,
    scorers_per_layer,
    scorers_published,
)
from .agreement import layer_ablations
from .decision import Decision, choose_by_f1, choose_by_metric, choose_on_paper_grid
from .fidelity import gold_alone
from .passes import answered, answered_together, masked_passes
from .row import Scores, of_fit
from .scorers import Made, Scorer, Value, scorers
from .view import View

T = TypeVar("T")

BUILT_IN = (
    scorers_decision, scorers_gold, scorers_model, scorers_per_layer, scorers_published, scorers_grids,
)  # fmt: skip
"""Importing them registers their scorers; a new file of scorers is named here."""

METRIC_FALL = 0.01
"""Without gold, the threshold is the sparsest whose validation metric falls by at most this much."""


class Judge:
    """Scores attributions of one problem's validation and test graphs (a context manager: it drives the model).

    Args:
        problem: the problem.
        max_edges: the most edges that one pass holds.
    """

    def __init__(self, problem: Problem, max_edges: int = MAX_EDGES) -> None:
        self.problem = problem
        self.max_edges = max_edges
        self._gates = problem.gates()
        self._ablations: list[float] | None = None

    def __enter__(self) -> Judge:
        self._gates.__enter__()
        self.recordings = {
            name: self._gates.stream(self.problem.splits[name].graphs, self.max_edges)
            for name in ("validation", "test")
        }
        return self

    def __exit__(self, *error: Any) -> None:
        self._gates.__exit__(*error)

    @property
    def num_layers(self) -> int:
        """L."""
        return self.recordings["test"].num_layers

    def constant(self, split: str, value: float) -> Attribution:
        """Return the attribution that scores every message the same: keep-all (1) or drop-all (0)."""
        scores = self.recordings[split].ones() * value
        return Attribution(scores, hard_mask=scores > 0.5)

    @torch.no_grad()
    def decide(self, attributions: Mapping[str, Attribution], source: str | None = None) -> Decision:
        """Return which messages count as retained: the method's own mask, or the one of a threshold.

        Args:
            attributions: of ``test`` graphs, and of ``validation`` ones where the method does not decide itself.
            source: who decided the hard mask of a control.
        """
        test = attributions["test"]
        if test.hard_mask is not None:
            return Decision(test.hard_mask, source or "hard mask of the method")
        attribution, split = attributions["validation"], self.problem.splits["validation"]
        recording = self.recordings["validation"]
        on_validation = normalise(attribution, recording.graphs)
        values = normalise(test, self.recordings["test"].graphs)
        if split.gold is not None:
            choice = choose_by_f1(on_validation, split.gold)
            grid = threshold(values, choose_on_paper_grid(on_validation, split.gold))
            return Decision(threshold(values, choice.threshold), choice.source, choice, grid)
        metric = self.problem.output.metric
        floor = metric(recording.logits, split.labels, split.graphs) - METRIC_FALL

        def keeps(t: float) -> bool:
            (logits,) = masked_passes(recording, [threshold(on_validation, t)], attribution.baselines)
            # Floating point: a fall of exactly one point is accepted.
            return metric(logits, split.labels, split.graphs) >= floor - 1e-9

        choice = choose_by_metric(on_validation, keeps)
        return Decision(threshold(values, choice.threshold), choice.source, choice)

    @torch.no_grad()
    def score(
        self,
        name: str,
        attributions: Mapping[str, Attribution],
        decision: Decision | None = None,
        kind: str = "method",
    ) -> Scores:
        """Score one row from its attributions of ``validation`` and ``test``, in one walk over the test graphs.

        The mask whose retained share is reported is the mask that is scored and whose prediction is checked.
        """
        view = View(
            self.problem,
            self.recordings["test"],
            attributions["test"],
            decision or self.decide(attributions),
            attributions.get("randomised"),
            kind,
            self.ablations,
        )
        asking = {one: one(view) for one in scorers() if one.applies(view)}
        # Rows are walked one after the other: masks take a byte a message, and a row asks for some forty.
        made = answered_together(view.recording, asking)
        figures: dict[str, Value] = _merged(one.figures for one in made.values())
        per_graph = _merged([_identity(view), *(one.per_graph for one in made.values())])
        layers = _merged_layers(list(made.values()), self.num_layers)
        figures |= _layers_beside(layers, list(made))
        return Scores(name, kind, figures, per_graph, layers, mask=view.mask.cpu().numpy())

    def method_and_controls(self, name: str, attributions: dict[str, Attribution], seed: int) -> list[Scores]:
        """Score a method and its own controls: a random mask matched to its mask, and its learned baseline alone."""
        test, decision = attributions["test"], self.decide(attributions)
        rows = [self.score(name, attributions, decision)]
        graphs, mask = self.recordings["test"].graphs, decision.mask
        own = mask if test.per_layer else mask[:1]
        matched = random_like(own, graphs, derive("matched random", seed)).expand_as(mask)
        chance = Attribution(
            matched.to(test.scores.dtype), hard_mask=matched, baselines=test.baselines, per_layer=test.per_layer
        )
        rows.append(self._control(f"random({name})", chance, "matched"))
        if test.baselines is not None:
            closed = Attribution(chance.scores * 0, hard_mask=matched & False, baselines=test.baselines)
            rows.append(self._control(f"drop-all({name})", closed, "all closed, own baseline"))
        return rows

    def _control(self, name: str, attribution: Attribution, source: str) -> Scores:
        attributions = {"test": attribution}
        return self.score(name, attributions, self.decide(attributions, source), "control")

    def problem_controls(self) -> list[Scores]:
        """Score keep-all, drop-all (zero baseline), and the gold mask where there is one."""
        rows = [
            self._control(name, self.constant("test", value), f"all {state}")
            for name, value, state in (("keep-all", 1.0, "open"), ("drop-all", 0.0, "closed"))
        ]
        gold = self.problem.splits["test"].gold
        if gold is not None:
            mask = gold.expand(self.num_layers, -1)
            scores = mask.to(self.recordings["test"].logits.dtype)
            rows.append(self._control("gold", Attribution(scores, hard_mask=mask), "gold"))
        return rows

    @torch.no_grad()
    def predicted_without_messages(self) -> dict[str, float]:
        """Return the share of test graphs in each class when every message is dropped; none without classes."""
        recording = self.recordings["test"]
        (closed,) = masked_passes(recording, [recording.ones() * 0])
        classes = self.problem.output.classes(closed, recording.graphs)
        if classes is None:
            return {}
        counts = torch.bincount(classes, minlength=2).double() / max(1, len(classes))
        return {f"predicted_{k}_without_messages": float(share) for k, share in enumerate(counts)}

    @torch.no_grad()
    def ablations(self) -> list[float]:
        """Return the test metric with all messages of one layer dropped, for each layer; made at the first call."""
        if self._ablations is not None:
            return self._ablations
        recording, labels = self.recordings["test"], self.problem.splits["test"].labels
        without = answered(recording, layer_ablations(recording, self.problem.output, labels))
        self._ablations = without.metric.tolist()
        return self._ablations

    def gold_alone(self) -> dict[str, float]:
        """Return the share of test graphs whose prediction exactly the gold messages keep; none without such gold."""
        gold = self.problem.splits["test"].gold
        recording = self.recordings["test"]
        kept = None if gold is None else answered(recording, gold_alone(recording, self.problem.output, gold))
        return {} if kept is None else {"unchanged_by_gold_alone": float(kept.double().mean())}


def score_method(
    cell: Cell,
    problem: Problem,
    attributions: dict[str, Attribution],
    figures: Mapping[str, bool | int | float | None],
    max_edges: int,
) -> list[Scores]:
    """Score a method and its own controls, on the graphs that it finished.

    Args:
        cell: whose they are; its controls draw from a stream of its own.
        problem: what the method explained.
        attributions: of ``test`` graphs, and of ``validation`` and ``randomised`` ones where there are any.
        figures: what the method says about its fit.
        max_edges: the most edges that one pass holds.
    """
    complete = attributions["test"].complete
    if complete is not None:
        problem, attributions = _finished_only(problem, attributions, complete)
    if complete is not None and not bool(complete.any()):
        rows = [Scores(cell.method, "method", {})]
    else:
        with Judge(problem, max_edges) as judge:
            rows = judge.method_and_controls(cell.method, attributions, cell.controls_stream)
    rows[0].figures |= of_fit(figures)
    if complete is not None:
        for row in rows:
            _name_unfinished(row, complete)
    return rows


def _finished_only(
    problem: Problem, attributions: dict[str, Attribution], complete: Tensor
) -> tuple[Problem, dict[str, Attribution]]:
    """Return problem and attributions with only those test graphs that were finished."""
    index = complete.nonzero()[:, 0]
    test = problem.splits["test"]
    selected = {**attributions, "test": attributions["test"].select(test.graphs, index)}
    if not bool(complete.all()):
        selected.pop("randomised", None)
    finished = {**problem.splits, "test": test.select(index)}
    return replace(problem, splits=finished, known=problem.findings), selected


def _name_unfinished(row: Scores, complete: Tensor) -> None:
    """Number a row's graphs as in the whole test split, and name those that were not finished."""
    row.figures["coverage"] = float(complete.double().mean())
    finished = complete.nonzero()[:, 0].cpu().numpy()
    row.per_graph |= {"graph": finished, "complete": finished >= 0}
    row.unfinished = (~complete).nonzero()[:, 0].tolist()


def _identity(view: View) -> dict[str, np.ndarray]:
    """Return what tells a row's graphs apart ``(G,)``."""
    return {
        "graph": np.arange(view.graphs.num_graphs),
        **({} if view.classes is None else {"predicted": view.classes}),
        "edges": view.graphs.num_edges_per_graph.cpu().numpy(),
    }


def _merged(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """Return the values of all parts.

    Raises:
        ValueError: when two have one name.
    """
    whole: dict[str, T] = {}
    for part in parts:
        twice = whole.keys() & part.keys()
        if twice:
            raise ValueError(f"expected one scorer of {min(twice)!r}; got two: rename one")
        whole |= part
    return whole


def _merged_layers(made: Sequence[Made], num_layers: int) -> list[dict[str, Value]]:
    """Return the figures of every layer, counted from 0.

    Raises:
        ValueError: when two scorers say different things of one.
    """
    layers: list[dict[str, Value]] = [{"layer": k} for k in range(num_layers)]
    for one in made:
        for row, more in zip(layers, one.layers, strict=bool(one.layers)):
            twice = [name for name in more if name in row and row[name] != more[name]]
            if twice:
                raise ValueError(f"expected one scorer of {twice[0]!r} of a layer; got two: rename one")
            row |= more
    return layers


def _layers_beside(layers: Sequence[Mapping[str, Value]], used: Sequence[Scorer]) -> dict[str, Value]:
    """Return those figures of layers that stand beside the row's, ``x_layer_{k}``, where there are several layers."""
    listed = {name for one in used for name in one.names}
    return {
        f"{name}_layer_{k}": value
        for k, row in enumerate(layers if len(layers) > 1 else ())
        for name, value in row.items()
        if f"{name}_layer_{{k}}" in listed
    }
