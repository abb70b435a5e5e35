"""Figures over a grid, of methods alone: thinned masks, attribution levels, and fidelity at every sparsity."""

from __future__ import annotations

from collections.abc import Mapping

from ..base.seeds import derive
from .grids import mean_over_graphs, scored_above, sparsity_curve, thinned
from .passes import Asking
from .scorers import METHOD, Made, Value, scorer
from .view import View

KINDS = ("kept", "cut", "random")
"""What is left of the graph: the rest of the mask (Table 5), all but what is dropped of the mask, all but as much of
everything."""


@scorer(*(f"metric_{kind}_dropping_{{share}}" for kind in KINDS), needs=[METHOD])
def dropping(view: View) -> Asking[Mapping[str, Value]]:
    """Score the task's metric as retained messages are dropped at random, and as many messages of all (Table 5)."""
    mask = view.mask if view.attribution.per_layer else view.mask[:1]  # one mask loses the same edges in every layer
    found = yield from thinned(view.recording, view.output, view.labels, mask, derive("dropping"), view.baselines)
    return {
        f"metric_{kind}_dropping_{share:g}": float(metric)
        for kind, effects in zip(KINDS, (found.kept, found.cut, found.random), strict=True)
        for share, metric in zip(found.dropped, effects.metric.tolist(), strict=True)
    }


@scorer(needs=[METHOD])
def levels(view: View) -> Made:
    """Return the mean share of a layer's messages that are scored above a level (Figure 9)."""
    above = mean_over_graphs(scored_above(view.values, view.graphs)).nan_to_num(0)  # (T, L)
    steps = len(above) - 1
    columns = above.T.tolist()
    return Made(layers=[{f"scored_above_{t / steps:g}": x for t, x in enumerate(column)} for column in columns])


@scorer(
    "unchanged_area", "divergence_area",
    *(f"{name}_keeping_{{share}}" for name in ("metric", "unchanged", "divergence")), needs=[METHOD],
)  # fmt: skip
def sparsity(view: View) -> Asking[Made]:
    """Score what is left as ever more of the highest scores are kept, and the area under it."""
    curve = yield from sparsity_curve(view.recording, view.output, view.labels, view.values, view.baselines)
    columns = {"unchanged_area": curve.unchanged_area, "divergence_area": curve.divergence_area}
    figures: dict[str, Value] = {name: float(x.mean()) for name, x in columns.items()}
    points = {
        "metric": curve.effects.metric,
        "unchanged": curve.effects.unchanged.double().mean(1),
        "divergence": curve.effects.divergence.double().mean(1),
    }
    for name, values in points.items():
        for share, value in zip(curve.shares, values.tolist(), strict=True):
            figures[f"{name}_keeping_{share:g}"] = value
    return Made(figures, {name: x.cpu().numpy() for name, x in columns.items()})
