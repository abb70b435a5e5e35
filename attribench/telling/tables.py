"""Views of the records: CSV files and the table on the terminal. Everything here is computed from stored results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from statsmodels.stats.weightstats import DescrStatsW

from ..base.files import write_atomically
from ..scoring.judge import THINNED, Scores
from ..storing.pieces import Grounds
from ..storing.records import About, ProblemResult, Result

KEYS = ["task", "method", "data_seed", "model_seed", "fit_seed"]
COMPARED = [
    "precision", "recall", "f1", "precision_macro", "recall_macro", "f1_macro", "auroc", "average_precision",
    "retained", "unchanged_own", "unchanged_zero", "divergence_own", "divergence_zero", "randomisation_correlation",
    "coverage", "precision_union", "recall_union", "f1_union", "auroc_union", "layer_share_error",
    "layer_share_error_mask", "f1_validation", "f1_paper_grid",
    "metric_fall", *(f"metric_fall_thinned_to_{share:g}" for share in THINNED),
]  # fmt: skip
SCORE_COLUMNS = [
    *KEYS, "status", "reason", *COMPARED[:8], "threshold", "threshold_source", "threshold_at_end", "f1_validation",
    "f1_paper_grid", "retained", "unchanged_own",
    "unchanged_zero", "divergence_own", "divergence_zero", "kind", "gold_confirmed",
]  # fmt: skip
MARKED = {"one_mask": "one mask", "threshold_at_end": "at end"}
"""Columns of truth values that are noted beside a method's name where they hold for any of its cells."""
_LAYER = re.compile(r"_layer_(\d+)$")
"""Figures of one layer, counted from 0 as in ``layers.csv``."""
CONFIDENCE_CELLS = 3
"""Fewest cells for a t interval of the mean over seeds."""


class Report:
    """The tables of one run.

    Args:
        results: one per cell.
        problems: one per problem.
        about: what is said of every task.
    """

    def __init__(
        self, results: Sequence[Result], problems: Sequence[ProblemResult], about: Mapping[str, About]
    ) -> None:
        self.about = about
        self.results = results
        self.problems = problems
        self._ablations = {
            (p.task, p.data_seed, p.model_seed, k): value for p in problems for k, value in enumerate(p.ablations)
        }
        self._confirmed = {(p.task, p.data_seed, p.model_seed): p.figures.get("gold_confirmed") for p in problems}

    def _rows(self) -> list[tuple[dict[str, Any], Scores]]:
        """Return every scored row with the columns that identify it; a problem's controls come after its methods."""
        rows = [
            (
                {
                    **_identity(result),
                    "method": row.method,
                    "status": result.record.status,
                    "reason": result.record.reason,
                    "kind": row.kind,
                },
                row,
            )
            for result in self.results
            for row in result.rows
        ]
        for problem in self.problems:
            fit_seeds = dict.fromkeys(
                r.cell.fit_seed
                for r in self.results
                if r.cell.grounds == Grounds(problem.task, problem.data_seed, problem.model_seed)
            )
            for row in problem.rows:
                for fit_seed in fit_seeds:
                    identity = dict(
                        task=problem.task, method=row.method, data_seed=problem.data_seed,
                        model_seed=problem.model_seed, fit_seed=fit_seed, status="ok", reason="", kind=row.kind,
                    )  # fmt: skip
                    rows.append((identity, row))
        return rows

    def task_names(self) -> list[str]:
        """Return the tasks, in the order of the run."""
        return list(dict.fromkeys(result.cell.task for result in self.results))

    def scores(self) -> pd.DataFrame:
        """Return one row per cell and control."""
        rows = [
            {**_identity(r), "status": r.record.status, "reason": r.record.reason, "kind": "method"}
            for r in self.results
            if not r.rows
        ]
        rows += [{**identity, **row.figures} for identity, row in self._rows()]
        frame = self._sorted(pd.DataFrame(rows))
        problems = zip(frame["task"], frame["data_seed"], frame["model_seed"], strict=True)
        frame["gold_confirmed"] = [self._confirmed.get(problem) for problem in problems]
        return frame.reindex(columns=[*SCORE_COLUMNS, *(c for c in frame if c not in SCORE_COLUMNS)])

    def per_graph(self) -> Iterator[pd.DataFrame]:
        """Yield one row per test graph, a table per cell or control, so that they need not be in memory together."""
        rows = self._rows()
        order = self._sorted(pd.DataFrame([{**identity, "row": i} for i, (identity, _) in enumerate(rows)]))
        columns = list(dict.fromkeys(chain(KEYS, *(row.per_graph for _, row in rows))))
        for i in order["row"] if rows else []:
            identity, row = rows[i]
            frame = pd.DataFrame(row.per_graph)
            if row.unfinished:
                frame = pd.concat([frame, pd.DataFrame({"graph": row.unfinished, "complete": False})])
            yield frame.assign(**{key: identity[key] for key in KEYS}).reindex(columns=columns)

    def layers(self) -> pd.DataFrame:
        """Return one row per cell or control and layer, with the task's metric without that layer's messages."""
        rows = [
            {
                **{key: identity[key] for key in KEYS},
                **layer,
                "metric_without_layer": self._ablations.get(
                    (identity["task"], identity["data_seed"], identity["model_seed"], layer["layer"])
                ),
            }
            for identity, row in self._rows()
            for layer in row.layers
        ]
        return self._sorted(pd.DataFrame(rows, columns=None if rows else KEYS))

    def costs(self) -> pd.DataFrame:
        """Return one row per cell; the only file besides ``run.json`` that differs between equal runs."""
        return self._sorted(
            pd.DataFrame([{**_identity(r), "status": r.record.status, **r.record.costs} for r in self.results])
        )

    def tasks(self) -> pd.DataFrame:
        """Return one row per problem: training, accuracy, audit, and the metric with one layer's messages dropped."""
        return pd.DataFrame(
            [
                {
                    "task": p.task,
                    "data_seed": p.data_seed,
                    "model_seed": p.model_seed,
                    **p.figures,
                    **{f"metric_without_layer_{k}": value for k, value in enumerate(p.ablations)},
                }
                for p in self.problems
            ]
        )

    def comparison(self) -> pd.DataFrame:
        """Return one row per task and method: mean, spread and 95% t interval over cells, beside published figures."""
        scores = self.scores()
        figures = [*COMPARED, *(c for c in map(str, scores) if _LAYER.search(c))]
        rows = []
        for (task, method), cells in scores.groupby(["task", "method"], sort=False):
            published = self.about[str(task)].published.get(str(method), {})
            # Partial cells speak of other graphs than complete ones, and are never averaged with them.
            for status in ["ok", "partial"] if (cells["status"] == "partial").any() else ["ok"]:
                used = cells[cells["status"] == status]
                row: dict[str, Any] = {
                    "task": task,
                    "method": method,
                    "kind": cells["kind"].iloc[0],
                    "status": status,
                    "cells": len(used),
                    "planned": len(cells),
                    **{name: name in cells and bool(cells[name].eq(True).any()) for name in MARKED},
                    "statuses": " ".join(f"{name}:{count}" for name, count in cells["status"].value_counts().items()),
                }
                for figure in figures:
                    if figure in used:
                        row |= _spread(figure, used[figure].dropna().to_numpy(float))
                row |= {f"published_{figure}": published.get(figure) for figure in ("precision", "recall", "f1")}
                rows.append(row)
        return pd.DataFrame(rows)

    def _sorted(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Order rows by task and seeds, methods before controls; stable within a cell."""
        if frame.empty:
            return frame
        names = {name: i for i, name in enumerate(sorted({result.cell.base for result in self.results}))}
        order = frame["method"].map(lambda name: names.get(name.partition("[")[0], len(names)))
        keys = frame.assign(_order=order)[["task", "_order", "method", "data_seed", "model_seed", "fit_seed"]]
        index = np.lexsort([keys[c].to_numpy() for c in reversed(keys.columns)])
        return frame.iloc[index].reset_index(drop=True)

    def write(self, out: Path) -> None:
        """Write all CSV files, each in one step."""
        for view in (self.scores, self.layers, self.costs, self.tasks, self.comparison):
            write_atomically(out / f"{view.__name__}.csv", partial(_save, [view()]))
        write_atomically(out / "per_graph.csv", partial(_save, self.per_graph()))


def _save(frames: Iterable[pd.DataFrame], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for i, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=not i, float_format="%.6g", lineterminator="\n")
        if not file.tell():
            pd.DataFrame(columns=KEYS).to_csv(file, index=False, lineterminator="\n")


def _identity(result: Result) -> dict[str, Any]:
    cell = result.cell
    return dict(zip(KEYS, (cell.task, cell.method, cell.data_seed, cell.model_seed, cell.fit_seed), strict=True))


def _spread(name: str, values: Any) -> dict[str, float | None]:
    """Return mean and standard deviation, and from 3 cells on the t interval of the mean (target: new models)."""
    count = len(values)
    low = high = None
    if count >= CONFIDENCE_CELLS:
        low, high = (
            (float(x) for x in DescrStatsW(values).tconfint_mean()) if np.ptp(values) else (values[0], values[0])
        )
    return {
        f"{name}_mean": float(values.mean()) if count else None,
        f"{name}_std": float(values.std(ddof=1)) if count > 1 else None,
        f"{name}_low": low,
        f"{name}_high": high,
    }


_BY_LAYER = "F1 by layer"
_AT_END = f"({MARKED['threshold_at_end']})"
_COLUMNS = {
    "prec": ("precision_mean", 100, 1),
    "rec": ("recall_mean", 100, 1),
    "F1": ("f1_mean", 100, 1),
    "±": ("f1_std", 100, 1),
    _BY_LAYER: ("f1_layer_0_mean", 100, 0),
    "union": ("f1_union_mean", 100, 1),
    "moved": ("layer_share_error_mean", 100, 1),
    "grid": ("f1_paper_grid_mean", 100, 1),
    "paper": ("published_f1", 100, 1),
    "AUROC": ("auroc_mean", 100, 1),
    "kept": ("retained_mean", 100, 1),
    "fall": ("metric_fall_mean", 100, 1),
    "fall¾": ("metric_fall_thinned_to_0.75_mean", 100, 1),
    "same": ("unchanged_own_mean", 100, 1),
    "same0": ("unchanged_zero_mean", 100, 1),
    "rand": ("randomisation_correlation_mean", 100, 1),
    "fit s": ("fit_seconds", 1, 1),
    "ms": ("seconds_per_explanation", 1000, 2),
    "cells": ("cells", 1, 0),
}
_DISPENSABLE = (
    "cells",
    "rand",
    "fit s",
    "±",
    "grid",
    "ms",
    "AUROC",
    "moved",
    "same0",
    "kept",
    "same",
    "union",
    "fall¾",
    _BY_LAYER,
)
"""What a narrow terminal leaves out, first to last; the CSV files have everything."""
_LEGEND = {
    _BY_LAYER: "from the first",
    "union": "F1 over edges, in whatever layer",
    "moved": "how far the layers' shares of the scores are from their shares of the gold",
    "grid": "F1 where the threshold is one of the paper's grid of 0.1 to 0.9",
    "paper": "published F1, to be set beside it",
    "kept": "messages retained",
    "fall": "what the task's metric loses under the scored mask",
    "fall¾": "the same when a random quarter of the retained messages is dropped as well",
    "same": "predictions unchanged under the scored mask with the method's own baseline",
    "same0": "the same with a zero baseline",
    "rand": "correlation with scores for shuffled weights",
    "ms": "per explanation",
    _AT_END: "no threshold between keeping all and keeping nothing did better on validation",
    "-": "none",
}


def print_comparison(report: Report, console: Console) -> None:
    """Print the comparison as one table per task, and what the tasks say about their models."""
    comparison, costs = report.comparison(), report.costs()
    costs = costs.drop(columns=[*KEYS[2:], "status"]).groupby(["task", "method"]).mean(numeric_only=True)
    rows = comparison.join(costs, on=["task", "method"])
    explained = {"-"}
    for task in report.task_names():
        table = Table(
            title=escape(f"{task}: {report.about[task].summary}"), title_justify="left", box=box.SIMPLE, padding=0
        )
        mine = rows[rows["task"] == task]
        shown = [h for h, (name, *_) in _COLUMNS.items() if name in mine and mine[name].notna().any()]
        names = [_name(row) for row in mine.to_dict("records")]
        cells = {h: [_cell(row, h) for row in mine.to_dict("records")] for h in shown}
        widths = {h: 1 + max(5, len(h), *map(len, texts)) for h, texts in cells.items()}
        for heading in _DISPENSABLE:
            if heading in shown and 3 + max(map(len, names)) + sum(widths[h] for h in shown) > console.width:
                shown.remove(heading)
        explained.update(shown)
        if mine["threshold_at_end"].any():
            explained.add(_AT_END)
        table.add_column("method", no_wrap=True)
        for heading in shown:
            table.add_column(heading, justify="right", no_wrap=True, min_width=5)
        for kind in ("method", "control"):
            for i in (mine["kind"] == kind).to_numpy().nonzero()[0]:
                texts = (cells[heading][i] for heading in shown)
                table.add_row(escape(names[i]), *texts, style="dim" if kind == "control" else None)
            table.add_section()
        console.print(table)
    legend = "; ".join(f"{heading}: {text}" for heading, text in _LEGEND.items() if heading in explained)
    console.print(f"Percent, means over cells. {legend}.", style="dim")
    for line in _remarks(report):
        console.print(line, markup=False, highlight=False)


def _remarks(report: Report) -> list[str]:
    """Say which models were explained, whether the gold holds for them, and which cells did not end well."""
    lines = []
    for task, rows in report.tasks().groupby("task", sort=False) if report.problems else []:
        named = ("data_seed", "model_seed", "epochs", "best_epoch")
        hidden = [c for c in rows if c in named or str(c).endswith(("_changed", "_change", "_messages", "_share"))]
        figures = rows.select_dtypes("number").drop(columns=hidden, errors="ignore")
        parts = ", ".join(f"{name} {value:.3f}" for name, value in figures.min().dropna().items())
        confirmed = rows["gold_confirmed"].dropna()
        audited = f"gold confirmed for {int(confirmed.sum())} of {len(confirmed)} models"
        verdict = audited if len(confirmed) else "no audit of a gold standard"
        lines.append(f"{task}: {verdict}; lowest over {len(rows)} models: {parts}")
    endings: dict[tuple[str, ...], dict[str, list[str]]] = {}
    logs: dict[tuple[str, ...], Path] = {}
    for result in report.results:
        cell, record = result.cell, result.record
        if record.status != "ok":
            ending = (cell.task, record.status, record.reason)
            if result.log is not None and record.status not in ("skipped", "infeasible"):
                logs.setdefault(ending, result.log)
            seeds = endings.setdefault(ending, {})
            seeds.setdefault(cell.method, []).append(cell.seed)
    for (task, status, reason), methods in endings.items():
        for seeds_of_some in dict.fromkeys(map(tuple, methods.values())):  # those that ended alike on the same seeds
            names = ", ".join(name for name, of_it in methods.items() if tuple(of_it) == seeds_of_some)
            which = f"seed {seeds_of_some[0]}" if len(seeds_of_some) == 1 else f"seeds {', '.join(seeds_of_some)}"
            log = logs.get((task, status, reason))
            lines.append(f"{task} · {names} · {which}: {status}: {reason}" + (f" (log: {log})" if log else ""))
    return lines


def _name(row: Mapping[Any, Any]) -> str:
    notes = ["partial"] if row["status"] != "ok" else []
    notes += [text for column, text in MARKED.items() if row[column]]
    return f"{row['method']} ({', '.join(notes)})" if notes else str(row["method"])


def _cell(row: Mapping[Any, Any], heading: str) -> str:
    name, scale, digits = _COLUMNS[heading]
    if heading != _BY_LAYER or math.isnan(row[name]):
        return _number(row[name], scale, digits)
    of_layers = (row.get(f"f1_layer_{k}_mean", math.nan) for k in range(len(row)))
    return " ".join(_number(value, scale, digits) for value in of_layers if not math.isnan(value))


def _number(value: Any, scale: float, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{scale * value:z.{digits}f}"
