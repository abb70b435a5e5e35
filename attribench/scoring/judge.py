"""Scores of one attribution: against the gold where there is one, and against the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..base.seeds import Seeds, derive
from ..model.gates import Stream
from ..model.graphs import MAX_EDGES
from ..plugins.masks import THRESHOLDS, normalise, random_like, thin, threshold, top_share
from ..plugins.method import Attribution
from ..plugins.task import Problem
from .decision import Decision, choose_by_f1, choose_by_metric, choose_on_paper_grid
from .gold import against_gold, by_layer, micro, precision_recall_f1, share_error, soft

SHARES = (0.1, 0.2, 0.3, 0.5)
"""Retained shares at which every method is scored, so that methods meet at equal sparsity."""

THINNED = (0.75, 0.5, 0.25)
"""Shares of the retained messages that are kept at random, to see whether they are needed (the paper's Table 5)."""

LAYER_FIGURES = ("attribution_share", "gold_share", "precision", "recall", "f1", "auroc")
"""What the scores say of every layer, beside ``layers.csv``."""

LAYER_FIGURES_WITHOUT_GOLD = ("attribution_share", "retained_share")
"""The same where there is no gold."""

FEWEST_RANKS = 10
"""Distinct values below which a correlation of ranks says little: of hard masks, it is that of two binary variables."""

METRIC_FALL = 0.01
"""Without gold, the threshold is the sparsest whose validation metric falls by at most this much."""


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
    """

    method: str
    kind: str
    figures: dict[str, Any]
    per_graph: dict[str, np.ndarray] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)


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
    def decide(self, attributions: dict[str, Attribution], source: str | None = None) -> Decision:
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
            logits = _masked(recording, threshold(on_validation, t), attribution.baselines)
            # Floating point: a fall of exactly one point is accepted.
            return metric(logits, split.labels, split.graphs) >= floor - 1e-9

        choice = choose_by_metric(on_validation, keeps)
        return Decision(threshold(values, choice.threshold), choice.source, choice)

    @torch.no_grad()
    def score(
        self, name: str, attributions: dict[str, Attribution], decision: Decision | None = None, kind: str = "method"
    ) -> Scores:
        """Score one row from its attributions of ``validation`` and ``test``.

        The mask whose retained share is reported is the mask that is scored and whose prediction is checked.
        """
        test = attributions["test"]
        decision = decision or self.decide(attributions)
        values, mask, choice = normalise(test, self.recordings["test"].graphs), decision.mask, decision.choice
        figures: dict[str, Any] = {
            "threshold": choice.threshold if choice else None,
            "threshold_source": decision.source,
            "threshold_at_end": choice.at_end if choice else None,
            "one_mask": not test.per_layer,
        }
        per_graph = self._identity()
        self._score_gold(figures, per_graph, values, decision)
        self._score_fidelity(figures, per_graph, values, mask, test.baselines)
        if self.problem.splits["test"].gold is None:
            self._score_need(figures, mask if test.per_layer else mask[:1], test.baselines)
        if "randomised" in attributions:
            figures["randomisation_correlation"] = self._correlation(values, attributions["randomised"])
        for key, diagnostic in test.diagnostics.items():
            # Prefixed, so that no method can write a figure of the harness's.
            per_graph[f"diagnostic_{key}"] = _floats(diagnostic)
            figures[f"diagnostic_{key}"] = float(diagnostic.double().mean())
        layers = self._score_layers(values, mask)
        if len(layers) > 1:
            told = LAYER_FIGURES if self.problem.splits["test"].gold is not None else LAYER_FIGURES_WITHOUT_GOLD
            for k, layer in enumerate(layers):
                figures.update({f"{name}_layer_{k}": value for name, value in layer.items() if name in told})
        return Scores(name, kind, figures, per_graph, layers)

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
        classes = self.problem.output.classes(recording.forward(recording.ones() * 0), recording.graphs)
        if classes is None:
            return {}
        counts = torch.bincount(classes, minlength=2).double() / max(1, len(classes))
        return {f"predicted_{k}_without_messages": float(share) for k, share in enumerate(counts)}

    @torch.no_grad()
    def ablations(self) -> list[float]:
        """Return the test metric with all messages of one layer dropped, for each layer."""
        recording, labels = self.recordings["test"], self.problem.splits["test"].labels
        figures = []
        for k in range(self.num_layers):
            gates = recording.ones()
            gates[k] = 0
            figures.append(self.problem.output.metric(recording.forward(gates), labels, recording.graphs))
        return figures

    def _correlation(self, values: Tensor, randomised: Attribution) -> float | None:
        """Return Spearman's correlation with the scores for shuffled weights; None where either is constant."""
        graphs = self.recordings["test"].graphs
        ends = graphs.edge_ptr.tolist()
        count = ends.index(randomised.scores.shape[1])
        first = graphs.select(torch.arange(count, device=graphs.device))
        pair = [values[:, : ends[count]], normalise(randomised, first)]
        if randomised.complete is not None:
            pair = [x[:, randomised.complete[first.edge_graph]] for x in pair]
        return spearman(*(x.flatten().cpu().numpy() for x in pair))

    def _identity(self) -> dict[str, np.ndarray]:
        recording = self.recordings["test"]
        classes = self.problem.output.classes(recording.logits, recording.graphs)
        return {
            "graph": np.arange(recording.graphs.num_graphs),
            **({} if classes is None else {"predicted": classes.cpu().numpy()}),
            "edges": recording.graphs.num_edges_per_graph.cpu().numpy(),
        }

    def _score_gold(
        self, figures: dict[str, Any], per_graph: dict[str, np.ndarray], values: Tensor, decision: Decision
    ) -> None:
        gold = self.problem.splits["test"].gold
        if gold is None:
            return
        figures["f1_validation"] = decision.choice.f1 if decision.choice else None
        grid = decision.mask if decision.paper_grid is None else decision.paper_grid
        figures["f1_paper_grid"] = micro(against_gold(values, grid, gold)[1], gold)["f1"]
        values, mask = against_gold(values, decision.mask, gold)
        graphs = self.recordings["test"].graphs
        counts = [graphs.sum_per_graph(x.long().sum(0)).cpu().numpy() for x in (mask & gold, mask, gold)]
        rows = precision_recall_f1(*counts)
        names = ("precision", "recall", "f1")
        figures.update(micro(mask, gold))
        figures.update({f"{name}_macro": float(row.mean()) for name, row in zip(names, rows, strict=True)})
        figures.update(soft(values, gold))
        if figures["threshold"] is not None:  # how much the choice matters; no choice is made from these
            for t in THRESHOLDS:
                figures[f"f1_at_threshold_{t:g}"] = micro(threshold(values, t), gold)["f1"]
        if len(gold) > 1:
            # Over edges: a method that gives one mask for all layers cannot do better than find an edge in some layer.
            union = gold.any(0)
            one_mask = {**micro(mask.any(0), union), "auroc": soft(values.amax(0), union)["auroc"]}
            figures.update({f"{name}_union": value for name, value in one_mask.items()})
            figures["layer_share_error"] = share_error(values, gold, graphs)
            figures["layer_share_error_mask"] = share_error(mask, gold, graphs)
        for label, graphs_of_label in _by_class(per_graph):
            totals = [np.asarray(count[graphs_of_label].sum()) for count in counts]
            triple = precision_recall_f1(*totals)
            figures.update({f"{n}_predicted_{label}": float(x) for n, x in zip(names, triple, strict=True)})
        per_graph.update(true_positive=counts[0], retained=counts[1], gold=counts[2])
        per_graph.update(zip(names, rows, strict=True))

    def _score_fidelity(
        self,
        figures: dict[str, Any],
        per_graph: dict[str, np.ndarray],
        values: Tensor,
        mask: Tensor,
        baselines: Sequence[Tensor] | None,
    ) -> None:
        recording, output = self.recordings["test"], self.problem.output
        labels = self.problem.splits["test"].labels
        figures["retained"] = float(mask.double().mean())
        per_graph["retained_messages"] = recording.graphs.sum_per_graph(mask.long().sum(0)).cpu().numpy()
        for suffix, used in (("own", baselines), ("zero", None)):
            logits = _masked(recording, mask, used)
            unchanged = output.unchanged(recording.logits, logits, recording.graphs)
            divergence = output.divergence(recording.logits, logits, recording.graphs)
            figures[f"unchanged_{suffix}"] = float(unchanged.double().mean())
            figures[f"divergence_{suffix}"] = float(divergence.double().mean())
            figures[f"metric_{suffix}"] = output.metric(logits, labels, recording.graphs)
            per_graph[f"unchanged_{suffix}"] = unchanged.cpu().numpy()
            per_graph[f"divergence_{suffix}"] = _floats(divergence)
            for label, graphs_of_label in _by_class(per_graph):
                share = unchanged.cpu().numpy()[graphs_of_label].mean()
                figures[f"unchanged_{suffix}_predicted_{label}"] = float(share)
        for share in SHARES:
            top = top_share(values, recording.graphs, share)
            for suffix, used in (("own", baselines), ("zero", None)):
                logits = _masked(recording, top, used)
                unchanged = output.unchanged(recording.logits, logits, recording.graphs).double().mean()
                divergence = output.divergence(recording.logits, logits, recording.graphs).double().mean()
                figures[f"unchanged_{suffix}_at_{share:g}"] = float(unchanged)
                figures[f"divergence_{suffix}_at_{share:g}"] = float(divergence)

    def _score_need(self, figures: dict[str, Any], mask: Tensor, baselines: Sequence[Tensor] | None) -> None:
        """Without a gold: what the task's metric loses under the mask, and with a part of what the mask retains.

        Which part is the same for every method, as far as their masks are the same.
        """
        recording, metric = self.recordings["test"], self.problem.output.metric
        labels = self.problem.splits["test"].labels
        whole = metric(recording.logits, labels, recording.graphs)
        figures["metric_fall"] = whole - figures["metric_own"]
        for share in THINNED:
            part = thin(mask, recording.graphs, share, derive("thinned")).expand(self.num_layers, -1)
            logits = _masked(recording, part, baselines)
            figures[f"metric_fall_thinned_to_{share:g}"] = whole - metric(logits, labels, recording.graphs)

    def _score_layers(self, values: Tensor, mask: Tensor) -> list[dict[str, Any]]:
        graphs = self.recordings["test"].graphs
        scored = graphs.sum_per_graph(values.double())  # (L, G)
        total = scored.sum(0)
        shares = (scored / torch.where(total > 0, total, 1)).mean(1)
        kept = mask.double().sum(1)
        gold = self.problem.splits["test"].gold
        known: list[dict[str, Any]] = [{} for _ in mask]
        if gold is not None and len(gold) == len(mask):
            known = by_layer(values, mask, gold)
        return [
            {
                "layer": k,
                "attribution_share": float(shares[k]),
                "retained": float(kept[k] / max(1, graphs.num_edges)),
                "retained_share": float(kept[k] / kept.sum()) if kept.sum() > 0 else 0.0,
                **known[k],
            }
            for k in range(len(values))
        ]


def score_method(
    name: str,
    problem: Problem,
    attributions: dict[str, Attribution],
    figures: Mapping[str, bool | int | float | None],
    seeds: Seeds,
    max_edges: int,
) -> list[Scores]:
    """Score a method and its own controls, on the graphs that it finished.

    Args:
        name: the method's.
        problem: what it explained.
        attributions: of ``test`` graphs, and of ``validation`` and ``randomised`` ones where there are any.
        figures: what the method says about its fit.
        seeds: of the cell, from which those of the controls are derived.
        max_edges: the most edges that one pass holds.
    """
    complete = attributions["test"].complete
    if complete is not None:
        problem, attributions = _finished_only(problem, attributions, complete)
    if complete is not None and not bool(complete.any()):
        rows = [Scores(name, "method", {})]
    else:
        with Judge(problem, max_edges) as judge:
            rows = judge.method_and_controls(name, attributions, seeds.controls)
    rows[0].figures |= {f"fit_{name}": value for name, value in figures.items()}
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


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None where either has fewer than :data:`FEWEST_RANKS` distinct values."""
    return None if min(len(np.unique(x)), len(np.unique(y))) < FEWEST_RANKS else float(spearmanr(x, y).statistic)


def _by_class(per_graph: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Return every predicted class with which graphs have it; none where there is no breakdown by class."""
    classes = per_graph.get("predicted")
    return [] if classes is None else [(label, classes == label) for label in np.unique(classes)]


def _masked(recording: Stream, mask: Tensor, baselines: Sequence[Tensor] | None) -> Tensor:
    """Return the output under a mask.

    Raises:
        ValueError: when it is not finite: what would be compared with it is no number.
    """
    with torch.no_grad():
        logits = recording.forward(mask.to(recording.logits.dtype), baselines)
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("expected a finite output under the mask; got NaN or infinity: guard divisions in the model")
    return logits


def _floats(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
