"""The catalogue: what every column of a run's tables is called, means and needs to be read; where it stands.

How a figure is computed stands with its scorer; no scorer reads this, so that another word runs nothing again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

from .families import fits, inside
from .scorers import scorers

Table = Literal["scores", "layers", "per_graph", "comparison", "costs", "tasks"]
Unit = Literal["share", "D*", "correlation", "score", "count", "seconds", "MiB", "metric", "yes or no", "text", "any"]

LAST = 1000
"""The place of figures that the catalogue does not have."""


@dataclass(frozen=True)
class Figure:
    """One figure, or a family of them: ``{...}`` in the name stands for any text, ``{figure}`` for another figure.

    Args:
        name: stem of its columns.
        meaning: in one line.
        label: heading on the terminal, where it has a column there: in the catalogue's order, as a mean over cells.
        legend: what is said under the terminal's table; the meaning where None.
        unit: of the column.
        scale, digits: how it is printed on the terminal: times ``scale``, to so many digits.
        higher_is_better: None where neither is.
        drop: when a narrow terminal leaves it out: the smallest first, None never.
        note: what stands beside a method's name where it is true of any cell.
        place: place among the first columns of ``scores.csv``; None after them, in the order of the rows.
        compared: place in ``comparison.csv``; None where it is not compared over seeds.
        per_graph: the column of ``per_graph.csv`` whose mean it is, where methods can be paired by graph.
        table: the table that it is a column of; of ``scores``, it is in what is made from them, too.
    """

    name: str
    meaning: str = ""
    label: str = ""
    legend: str | None = None
    unit: Unit = "share"
    scale: float = 100
    digits: int = 1
    higher_is_better: bool | None = None
    drop: int | None = 0
    note: str = ""
    place: int | None = LAST
    compared: int | None = LAST
    per_graph: str = ""
    table: Table = "scores"

    @property
    def pairs_on(self) -> Literal["graph", "cell"]:
        """The unit on which methods are paired in tests."""
        return "graph" if self.per_graph else "cell"


_better = partial(Figure, higher_is_better=True, place=None, compared=None)
_worse = partial(Figure, higher_is_better=False, place=None, compared=None)
_neither = partial(Figure, place=None, compared=None)
_graph = partial(_neither, table="per_graph")
_cost = partial(_neither, table="costs")
_model = partial(_neither, table="tasks")

CATALOGUE: tuple[Figure, ...] = (
    # Against the gold standard.
    _better("precision", "gold among the retained messages", "prec", legend="", drop=None, place=1, compared=1),
    _better("recall", "retained among the gold messages", "rec", legend="", drop=None, place=2, compared=2),
    _better("f1", "F1 of retained against gold messages, counted over all graphs", "F1", legend="", drop=None, place=3,
            compared=3),
    _neither("f1_std", "standard deviation of F1 over cells", "±", legend="", drop=4, table="comparison"),
    _better(
        "f1_layer_{k}", "F1 of one layer's messages, counted from 0", "F1 by layer", "from the first", digits=0,
        drop=14, compared=30,
    ),
    _better("precision_union", "gold among the edges retained in any layer", compared=16),
    _better("recall_union", "retained in any layer among the edges that are gold in any", compared=17),
    _better("f1_union", "F1 over edges, in whatever layer", "union", drop=12, compared=18),
    _better("auroc_union", "AUROC over edges, by their highest score of any layer", compared=19),
    _worse(
        "layer_share_error", "how far the layers' shares of the scores are from their shares of the gold", "moved",
        drop=8, compared=20,
    ),
    _worse(
        "layer_share_error_mask", "how far the layers' shares of the mask are from their shares of the gold",
        compared=21,
    ),
    _better(
        "f1_paper_grid", "F1 where the threshold is one of the paper's grid of 0.1 to 0.9", "grid", drop=5,
        place=13, compared=23,
    ),
    _neither(
        "published_f1", "published F1, to be set beside it", "paper", drop=None, table="comparison"
    ),
    _neither("published_precision", "published precision", table="comparison"),
    _neither("published_recall", "published recall", table="comparison"),
    _better("precision_macro", "precision, as a mean over graphs", place=4, compared=4, per_graph="precision"),
    _better("recall_macro", "recall, as a mean over graphs", place=5, compared=5, per_graph="recall"),
    _better("f1_macro", "F1, as a mean over graphs", place=6, compared=6, per_graph="f1"),
    _better("auroc", "chance that a gold message scores above another one", "AUROC", legend="", drop=7, place=7,
            compared=7),
    _better("average_precision", "area under precision against recall over all thresholds", place=8, compared=8),
    _better("f1_validation", "F1 on the graphs by which the threshold was chosen", place=12, compared=22),
    _better("f1_at_threshold_{t}", "F1 at a threshold that nobody chose"),
    _better("{figure}_predicted_{label}", "over the graphs of one predicted class"),
    # Against the model itself.
    _neither("retained", "messages retained", "kept", drop=10, place=14, compared=9),
    _worse("metric_fall", "what the task's metric loses under the scored mask", "fall", unit="metric", drop=None,
           compared=24),
    _neither(
        "metric_fall_thinned_to_0.75",
        "what the task's metric loses when a random quarter of the retained messages is dropped as well",
        "fall¾", "the same when a random quarter of the retained messages is dropped as well",
        unit="metric", drop=13, compared=25,
    ),
    _neither(
        "metric_fall_thinned_to_{share}",
        "what the task's metric loses when only a random part of the retained messages is kept: little where they are "
        "not needed",
        unit="metric", compared=25,
    ),
    _better(
        "unchanged_own", "predictions unchanged under the scored mask with the method's own baseline", "same",
        drop=11, place=15, compared=10, per_graph="unchanged_own",
    ),
    _better(
        "unchanged_zero", "predictions unchanged under the scored mask with a zero baseline", "same0",
        "the same with a zero baseline", drop=9, place=16, compared=11, per_graph="unchanged_zero",
    ),
    _worse(
        "divergence_own", "D* of the output under the scored mask with the method's own baseline", unit="D*", place=17,
        compared=12, per_graph="divergence_own",
    ),
    _worse(
        "divergence_zero", "D* of the output under the scored mask with a zero baseline", unit="D*", place=18,
        compared=13, per_graph="divergence_zero",
    ),
    _better("metric_own", "the task's metric under the scored mask with the method's own baseline", unit="metric"),
    _better("metric_zero", "the task's metric under the scored mask with a zero baseline", unit="metric"),
    _better("unchanged_{which}_at_{share}", "predictions unchanged with this share of each graph's messages retained"),
    _worse("divergence_{which}_at_{share}", "D* with this share of each graph's messages retained", unit="D*"),
    # Against the model itself, over a grid.
    _neither("metric_kept_dropping_{share}", "the task's metric when only the rest of the mask is kept after a random "
             "share of it is dropped (Table 5)", unit="metric"),
    _neither("metric_cut_dropping_{share}", "the task's metric when a random share of the mask is dropped from the "
             "whole graph", unit="metric"),
    _neither("metric_random_dropping_{share}", "the task's metric when as many messages are dropped at random from all",
             unit="metric"),
    _better("metric_keeping_{share}", "the task's metric with this share of each graph's messages kept", unit="metric"),
    _better("unchanged_keeping_{share}", "predictions unchanged with this share of each graph's messages kept"),
    _worse("divergence_keeping_{share}", "D* with this share of each graph's messages kept", unit="D*"),
    _better("unchanged_area", "area under the share of unchanged predictions, over the share of messages kept",
            per_graph="unchanged_area"),
    _worse("divergence_area", "area under D*, over the share of messages kept", unit="D*", per_graph="divergence_area"),
    # As other benchmarks report it.
    _better("fidelity_plus", "fid+: predictions that change when the complement of the mask is kept",
            per_graph="fidelity_plus"),
    _worse("fidelity_minus", "fid-: predictions that change when the mask is kept", per_graph="fidelity_minus"),
    _better("characterization", "harmonic mean of fid+ and 1 - fid-"),
    _worse("unfaithfulness", "1 - exp(-D*) of the output under the mask", per_graph="unfaithfulness"),
    _better("precision_undirected", "gold among the edges found in either direction"),
    _better("recall_undirected", "found in either direction among the edges that are gold in either"),
    _better("f1_undirected", "F1 over edges found in either direction, in whatever layer"),
    _better("layer_agreement_spearman", "Spearman's correlation over layers of scores' shares and losses without the "
            "layer", unit="correlation"),
    _better("layer_agreement_kendall", "Kendall's tau over layers of scores' shares and losses without the layer",
            unit="correlation"),
    _worse(
        "randomisation_correlation", "correlation with scores for shuffled weights", "rand", unit="correlation",
        drop=2, compared=14,
    ),
    # What each row is.
    _cost("fit_seconds", "seconds to fit", "fit s", legend="", unit="seconds", scale=1, drop=3),
    _cost("seconds_per_explanation", "seconds for a test graph", "ms", "per explanation", unit="seconds", scale=1000,
          digits=2, drop=6),
    _neither("cells", "cells that the row speaks of", "cells", legend="", unit="count", scale=1, digits=0, drop=1,
             table="comparison"),
    _neither("planned", "cells that were planned", unit="count", table="comparison"),
    _neither("varied", "what differs between the cells that the means are over: the seeds of data, model or fit",
             unit="text", table="comparison"),
    _neither("code", "hash of the code, options and data that made the row: in the tables that a study keeps",
             unit="text"),
    _neither("statuses", "how the cells ended", unit="text", table="comparison"),
    _neither("one_mask", "one mask serves all layers", legend="", unit="yes or no", note="one mask"),
    _neither(
        "threshold_at_end", "no threshold between keeping all and keeping nothing did better on validation",
        unit="yes or no", note="at end", place=11,
    ),
    _neither("threshold", "messages with a normalised score above it are retained", unit="score", place=9),
    _neither("threshold_source", "who or what decided which messages are retained", unit="text", place=10),
    _better("coverage", "test graphs that the method finished", compared=15),
    _neither("gold_confirmed", "this model was found to use the gold messages and no others", unit="yes or no"),
    _neither("{figure}_layer_{k}", "of one layer, counted from 0", compared=30),
    _neither("diagnostic_{name}", "what the method says of its explanations", unit="any",
             per_graph="diagnostic_{name}"),
    _neither("fit_unsettled", "the optimiser did not come to rest: what it minimises still fell when its steps were "
             "over, its multiplier is far from balance, or nothing that it tried serves", unit="yes or no",
             note="unsettled"),
    _neither("fit_nearly_all", "no mask within the constraint was found that retains at most 80%: the model needs "
             "more, or the optimiser found no better", unit="yes or no", note="keeps nearly all"),
    _neither("fit_late_fall", "part of what is retained by which that fell over the last checks"),
    _neither("fit_late_infeasible", "of the last twelve checks, those that were infeasible"),
    _neither("fit_late_multiplier", "how far the multiplier's logarithm moved over the last checks", unit="any"),
    _neither("fit_log_multiplier", "mean logarithm of the multiplier at the last checks; of graphmask's own rule, 0 is "
             "balance", unit="any"),
    _neither("fit_restarts", "further attempts after a collapse", unit="count"),
    _neither("fit_restored", "times that training went back to its best checkpoint", unit="count"),
    _neither("fit_steps", "steps that were made in the last attempt", unit="count"),
    _neither("fit_divergence", "D* on graphs that are not trained on; of an infeasible cell on those that rule the "
             "constraint out by themselves, where there are such", unit="D*"),
    _neither("fit_changed", "predictions that change on the same graphs"),
    _neither("fit_randomised_failed", "1 where the method failed on the model with shuffled weights", unit="any"),
    _neither("fit_retained", "messages retained on graphs that are not trained on"),
    _neither("diagnostic_all_open", "graphs of which nothing sparser than all messages met the constraint",
             per_graph="diagnostic_all_open"),
    _neither("fit_agreement", "messages that both of two fits of one model retain, of those that either does: the mean "
             "over pairs", "agree", drop=15, table="comparison"),
    _neither("fit_{name}", "what the method says of its fit", unit="any"),
    # Of layers, graphs, cells and models.
    _neither("attribution_share", "the layer's mean share of a graph's scores", table="layers"),
    _neither("retained_share", "the layer's share of the retained messages", table="layers"),
    _neither("scored_above_{level}", "mean share of the layer's messages that are scored above a level (Figure 9)",
             table="layers"),
    _neither("gold_share", "the layer's share of the gold messages", table="layers"),
    _neither("metric_without_layer", "the task's metric with the layer's messages dropped", unit="metric",
             table="layers"),
    _graph("predicted", "the class that the model predicts", unit="text"),
    _graph("edges", "edges of the graph", unit="count"),
    _graph("true_positive", "messages both retained and gold", unit="count"),
    _graph("retained", "messages retained, as they are compared with the gold", unit="count"),
    _graph("gold", "gold messages", unit="count"),
    _graph("retained_messages", "messages retained, of all layers", unit="count"),
    _graph("complete", "the method finished the graph", unit="yes or no"),
    _cost("peak_memory_mib", "peak memory of the process, or of the device", unit="MiB"),
    _cost("max_edges", "the most edges of a pass, where memory ran out with the plan's", unit="count"),
    _cost("{what}_seconds", "seconds for all graphs of a part", unit="seconds"),
    _cost("{what}_forward_passes", "forward passes for it", unit="count"),
    _model("epochs", "epochs of the model's training", unit="count"),
    _model("best_epoch", "the epoch whose model was kept", unit="count"),
    _model("code", "hash of the code, options and data that made the model: in the tables that a study keeps",
           unit="text"),
    _model("gold_confirmed", "this model was found to use the gold messages and no others", unit="yes or no"),
    _model("{what}_messages", "what is so without messages, such as the test graphs of a class"),
    _model("unchanged_by_gold_alone", "test graphs whose prediction exactly the gold messages keep"),
    _model("metric_without_layer_{k}", "the task's metric with the layer's messages dropped",
           "metric_without_layer_{k}", unit="metric"),
    _model("{what}_changed", "examples that an intervention changed"),
    _model("{what}_change", "the largest change of an output by an intervention", unit="any"),
    _model("{what}_share", "share of the data"),
)  # fmt: skip
"""All figures of the harness, in the order of the terminal's columns. Of several that fit a name, the one counts that
has most letters of its own: ``f1_layer_{k}`` before ``{figure}_layer_{k}``."""


def entry_of(name: str, table: Table = "scores") -> Figure:
    """Return what the catalogue, or a scorer of somebody's, says of a column; an unknown one has its name as label."""
    return _entry_of(name, table, tuple(figure for one in scorers() for figure in one.figures))


@cache
def _entry_of(name: str, table: Table, of_scorers: tuple[Figure, ...]) -> Figure:
    said = (*CATALOGUE, *of_scorers)
    for place in (table,) if table in ("costs", "tasks") else (table, "scores"):
        found = [figure for figure in said if figure.table == place and fits(figure.name, name)]
        if found:
            return max(found, key=lambda figure: len(re.sub(r"\{\w+\}", "", figure.name)))
    return Figure(name, label=name, unit="any", scale=1, digits=2, table=table)


def figure_of(name: str, table: Table = "scores") -> Figure:
    """Return the figure of one column, by its own name; ``f1_predicted_1`` is read as the ``f1`` inside it is."""
    entry = entry_of(name, table)
    inner = inside(entry.name, name).get("figure")
    if inner is None:
        return replace(entry, name=name, per_graph=name if "{" in entry.per_graph else entry.per_graph)
    of = figure_of(inner, "layers")
    return replace(
        entry, name=name, meaning=f"{of.meaning}; {entry.meaning}", unit=of.unit, scale=of.scale, digits=of.digits,
        higher_is_better=of.higher_is_better,
    )  # fmt: skip


def needs_of(name: str) -> tuple[str, ...]:
    """Return what a row must have for a figure of ``scores.csv`` to be made: gold, several layers and so on."""
    needs = [need.text for one in scorers() if one.makes(name) for need in one.needs]
    return (*needs, *(["several layers"] if entry_of(name).name.endswith("_layer_{k}") else []))
