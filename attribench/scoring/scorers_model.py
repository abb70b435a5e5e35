"""Figures against the model itself: what it predicts under the mask, at equal sparsity, and with shuffled weights."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..base.seeds import derive
from ..plugins.masks import normalise, thin, top_shares
from .passes import Asking, Masked
from .scorers import NO_GOLD, RANDOMISED, Made, Value, scorer
from .view import View

SHARES = (0.1, 0.2, 0.3, 0.5)
"""Retained shares at which every method is scored, so that methods meet at equal sparsity."""

THINNED = (0.75, 0.5, 0.25)
"""Shares of the retained messages that are kept at random, to see whether they are needed (the paper's Table 5)."""

FEWEST_RANKS = 10
"""Distinct values below which a correlation of ranks says little: of hard masks, it is that of two binary variables."""

BOTH = ("own", "zero")
"""With the method's own baseline, and with the same mask and a zero one: a learned baseline can carry the answer."""


@scorer(
    "retained", *(f"{name}_{which}" for which in BOTH for name in ("unchanged", "divergence", "metric")),
    *(f"unchanged_{which}_predicted_{{label}}" for which in BOTH),
)  # fmt: skip
def under_the_mask(view: View) -> Asking[Made]:
    """Score the prediction, D* and the task's metric under the scored mask."""
    output, before, graphs = view.output, view.recording.logits, view.graphs
    figures: dict[str, Value] = {"retained": float(view.mask.double().mean())}
    per_graph = {"retained_messages": graphs.sum_per_graph(view.mask.long().sum(0)).cpu().numpy()}
    under = yield [Masked(view.mask, view.baselines), Masked(view.mask)]
    for which, logits in zip(BOTH, under, strict=True):
        unchanged = output.unchanged(before, logits, graphs)
        divergence = output.divergence(before, logits, graphs)
        figures[f"unchanged_{which}"] = float(unchanged.double().mean())
        figures[f"divergence_{which}"] = float(divergence.double().mean())
        figures[f"metric_{which}"] = output.metric(logits, view.labels, graphs)
        per_graph[f"unchanged_{which}"] = unchanged.cpu().numpy()
        per_graph[f"divergence_{which}"] = _floats(divergence)
        for label, chosen in view.by_class:
            share = unchanged.cpu().numpy()[chosen].mean()
            figures[f"unchanged_{which}_predicted_{label}"] = float(share)
    return Made(figures, per_graph)


@scorer(*(f"{name}_{which}_at_{{share}}" for which in BOTH for name in ("unchanged", "divergence")))
def at_equal_sparsity(view: View) -> Asking[Mapping[str, Value]]:
    """Score prediction and D* with the same share of every graph's messages retained, the highest scores."""
    output, before, graphs = view.output, view.recording.logits, view.graphs
    figures: dict[str, Value] = {}
    tops = top_shares(view.values, graphs, SHARES)
    under = yield [Masked(top, baselines) for top in tops for baselines in (view.baselines, None)]
    for (share, which), logits in zip(product(SHARES, BOTH), under, strict=True):
        unchanged = output.unchanged(before, logits, graphs).double().mean()
        divergence = output.divergence(before, logits, graphs).double().mean()
        figures[f"unchanged_{which}_at_{share:g}"] = float(unchanged)
        figures[f"divergence_{which}_at_{share:g}"] = float(divergence)
    return figures


@scorer("metric_fall", "metric_fall_thinned_to_{share}", needs=[NO_GOLD])
def need(view: View) -> Asking[Mapping[str, Value]]:
    """Score what the task's metric loses under the mask, and with a part of what the mask retains.

    Which part is the same for every method, as far as their masks are the same.
    """
    metric, labels, graphs = view.output.metric, view.labels, view.graphs
    own = view.mask if view.attribution.per_layer else view.mask[:1]  # one mask is thinned once
    parts = [thin(own, graphs, share, derive("thinned")) for share in THINNED]
    under = yield [Masked(mask, view.baselines) for mask in (view.mask, *parts)]
    whole = metric(view.recording.logits, labels, graphs)
    names = ("metric_fall", *(f"metric_fall_thinned_to_{share:g}" for share in THINNED))
    return {name: whole - metric(logits, labels, graphs) for name, logits in zip(names, under, strict=True)}


@scorer("randomisation_correlation", needs=[RANDOMISED])
def randomisation(view: View) -> Mapping[str, Value]:
    """Return Spearman's correlation with the scores for shuffled weights; None where either is constant."""
    randomised = view.randomised
    if randomised is None:
        return {}
    ends = view.graphs.edge_ptr.tolist()
    count = ends.index(randomised.scores.shape[1])
    first = view.graphs.select(torch.arange(count, device=view.graphs.device))
    pair = [view.values[:, : ends[count]], normalise(randomised, first)]
    if randomised.complete is not None:
        pair = [x[:, randomised.complete[first.edge_graph]] for x in pair]
    return {"randomisation_correlation": spearman(*(x.flatten().cpu().numpy() for x in pair))}


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None where either has fewer than :data:`FEWEST_RANKS` distinct values."""
    from scipy.stats import spearmanr  # takes a second, which only scoring needs

    return None if min(len(np.unique(x)), len(np.unique(y))) < FEWEST_RANKS else float(spearmanr(x, y).statistic)


@scorer("diagnostic_{name}")
def diagnostics(view: View) -> Made:
    """Hand on what the method says of itself, with a prefix, so that none can write a figure of the harness's."""
    found = {f"diagnostic_{name}": x for name, x in view.attribution.diagnostics.items()}
    return Made(
        {name: float(x.double().mean()) for name, x in found.items()}, {name: _floats(x) for name, x in found.items()}
    )


def _floats(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
