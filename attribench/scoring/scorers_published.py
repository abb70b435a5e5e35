"""Figures that others report: fidelity as PyG defines it, F1 over undirected edges, how well layers are ranked."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .agreement import layer_shares, rank_agreement
from .fidelity import fidelity
from .grids import mean_over_graphs
from .passes import Asking
from .scorers import GOLD, METHOD, SEVERAL_LAYERS, Made, Value, scorer
from .undirected import pair_counts
from .view import View

PER_GRAPH = ("fidelity_plus", "fidelity_minus", "unfaithfulness")


@scorer(*PER_GRAPH, "characterization", needs=[METHOD])
def as_pyg_defines(view: View) -> Asking[Made]:
    """Score the mask as ``torch_geometric.explain.metric`` does, with the model's prediction and a zero baseline."""
    found = yield from fidelity(view.recording, view.output, view.mask)
    if found is None:
        return Made()
    columns = dict(zip(PER_GRAPH, (found.positive, found.negative, found.unfaithfulness), strict=True))
    figures: dict[str, Value] = {name: float(x.mean()) for name, x in columns.items()}
    figures["characterization"] = found.characterization
    return Made(figures, {name: x.double().cpu().numpy() for name, x in columns.items()})


@scorer(*(f"{name}_undirected" for name in ("precision", "recall", "f1")), needs=[GOLD])
def of_undirected_edges(view: View) -> Made:
    """Score edges that are found in either direction and any layer, as other papers do."""
    counts = pair_counts(view.mask, view.truth, view.graphs)
    columns = counts.per_graph()
    return Made(
        {f"{name}_undirected": value for name, value in counts.micro().items()},
        {"f1_undirected": columns["f1"]},
    )


@scorer("layer_agreement_spearman", "layer_agreement_kendall", needs=[METHOD, SEVERAL_LAYERS])
def agreement(view: View) -> Mapping[str, Value]:
    """Return whether layers with a larger share of the scores are those whose loss costs more (Tables 6 and 7)."""
    whole = view.output.metric(view.recording.logits, view.labels, view.graphs)
    losses = whole - torch.tensor(view.ablations, dtype=torch.float64)
    found = rank_agreement(mean_over_graphs(layer_shares(view.values, view.graphs)).cpu(), losses)
    return {"layer_agreement_spearman": found.spearman, "layer_agreement_kendall": found.kendall}
