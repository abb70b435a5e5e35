"""Figures of what was decided: the threshold, who chose it, and whether one mask serves all layers."""

from __future__ import annotations

from collections.abc import Mapping

from .scorers import Value, scorer
from .view import View


@scorer("threshold", "threshold_source", "threshold_at_end", "one_mask")
def decided(view: View) -> Mapping[str, Value]:
    """Say by which threshold messages are retained; none where the method decided itself."""
    choice = view.decision.choice
    return {
        "threshold": choice.threshold if choice else None,
        "threshold_source": view.decision.source,
        "threshold_at_end": choice.at_end if choice else None,
        "one_mask": not view.attribution.per_layer,
    }
