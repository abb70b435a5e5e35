"""Views of the records: the CSV files of a run, computed from what is stored. Their columns are the catalogue's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial, wraps
from itertools import chain, combinations, groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from ..base.files import write_atomically
from ..base.names import base_name
from ..base.pieces import Cell, ProblemSpec, varied
from ..scoring.figures import CATALOGUE, LAST, Table, entry_of
from ..scoring.row import Scores, of_fit
from ..storing.records import About, ProblemResult, Result
from .glossary import glossary

KEYS = ["task", "method", "data_seed", "model_seed", "fit_seed"]
FIRST = [*KEYS, "status", "reason"]
"""What stands before the figures of a row."""
NOTED = [figure.name for figure in CATALOGUE if figure.note]
CONFIDENCE_CELLS = 3
"""Fewest cells for a t interval of the mean over seeds."""

GRAPHS_AT_ONCE = 50_000
"""Rows of ``per_graph.csv`` that are made together: many, since every frame costs as much as a thousand rows."""


def _once(view: Callable[[Report], pd.DataFrame]) -> Callable[[Report], pd.DataFrame]:
    """Compute a table once for a report; everybody gets a copy (a decorator)."""

    @wraps(view)
    def get(report: Report) -> pd.DataFrame:
        kept: dict[str, pd.DataFrame] = report.__dict__.setdefault("_views", {})
        if view.__name__ not in kept:
            kept[view.__name__] = view(report)
        return kept[view.__name__].copy()

    return get


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

    def part(self, cells: Collection[Cell]) -> Report:
        """Return the tables of some cells and their problems alone."""
        cells = set(cells)
        problems = {cell.problem for cell in cells}
        return Report(
            [result for result in self.results if result.cell in cells],
            [p for p in self.problems if ProblemSpec(p.task, p.data_seed, p.model_seed) in problems],
            self.about,
        )

    @cached_property
    def _rows(self) -> list[tuple[dict[str, Any], Scores]]:
        """Every scored row with the columns that identify it; a problem's controls come after its methods."""
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
        fit_seeds: dict[ProblemSpec, dict[int, None]] = {}
        for result in self.results:
            fit_seeds.setdefault(result.cell.problem, {})[result.cell.fit_seed] = None
        for problem in self.problems:
            spec = ProblemSpec(problem.task, problem.data_seed, problem.model_seed)
            for row in problem.rows:
                for fit_seed in fit_seeds.get(spec, ()):
                    identity = dict(
                        task=problem.task, method=row.method, data_seed=problem.data_seed,
                        model_seed=problem.model_seed, fit_seed=fit_seed, status="ok", reason="", kind=row.kind,
                    )  # fmt: skip
                    rows.append((identity, row))
        return rows

    def task_names(self) -> list[str]:
        """Return the tasks, in the order of the run."""
        return list(dict.fromkeys(result.cell.task for result in self.results))

    @_once
    def scores(self) -> pd.DataFrame:
        """Return one row per cell and control."""
        rows = [
            {
                **_identity(r),
                "status": r.record.status,
                "reason": r.record.reason,
                "kind": "method",
                **of_fit(r.record.figures),
            }
            for r in self.results
            if not r.rows
        ]
        rows += [{**identity, **row.figures} for identity, row in self._rows]
        frame = self._sorted(pd.DataFrame(rows))
        problems = zip(frame["task"], frame["data_seed"], frame["model_seed"], strict=True)
        frame["gold_confirmed"] = [self._confirmed.get(problem) for problem in problems]
        leading = [*FIRST, *_placed(), "kind", "gold_confirmed"]
        # The sort is stable: figures without a place stand as the rows bring them, unknown ones behind them.
        others = sorted((str(c) for c in frame if c not in leading), key=lambda c: entry_of(c).place or 0)
        return frame.reindex(columns=[*leading, *others])

    def per_graph(self) -> Iterator[pd.DataFrame]:
        """Yield one row per test graph of every cell or control, some thousand at a time: not all need be in memory."""
        rows = self._rows
        order = self._sorted(pd.DataFrame([{**identity, "row": i} for i, (identity, _) in enumerate(rows)]))
        columns = list(dict.fromkeys(chain(KEYS, *(row.per_graph for _, row in rows))))
        frames = (_of_graphs(*rows[i]) for i in order["row"]) if rows else iter(())
        # Rows of other types are never in one frame, where they would be written in other ways.
        for types, alike in groupby(frames, key=lambda arrays: [(name, x.dtype) for name, x in arrays.items()]):
            names = [name for name, _ in types]
            for several in _together(alike, GRAPHS_AT_ONCE):
                joined = {name: np.concatenate([arrays[name] for arrays in several]) for name in names}
                yield pd.DataFrame(joined).reindex(columns=columns)

    @_once
    def layers(self) -> pd.DataFrame:
        """Return one row per cell or control and layer, with the task's metric without that layer's messages."""
        rows = [
            {
                **{key: identity[key] for key in KEYS},
                **layer,
                "metric_without_layer": self._ablations.get(
                    (identity["task"], identity["data_seed"], identity["model_seed"], k)
                ),
            }
            for identity, row in self._rows
            for k, layer in enumerate(row.layers)
        ]
        return self._sorted(pd.DataFrame(rows, columns=None if rows else KEYS))

    @_once
    def costs(self) -> pd.DataFrame:
        """Return one row per cell; the only file besides ``run.json`` that differs between equal runs."""
        return self._sorted(
            pd.DataFrame([{**_identity(r), "status": r.record.status, **r.record.costs} for r in self.results])
        )

    @_once
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

    @_once
    def comparison(self) -> pd.DataFrame:
        """Return one row per task and method: mean, spread and 95% t interval over cells, beside published figures."""
        scores = self.scores()
        figures = _compared(scores)
        agreements = self._agreements()
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
                    "varied": " ".join(varied(Cell(*seeds) for seeds in used[KEYS].itertuples(index=False))),
                    **{name: _of_any(cells[name]) if name in cells else None for name in NOTED},
                    "statuses": " ".join(f"{name}:{count}" for name, count in cells["status"].value_counts().items()),
                }
                for figure in figures:
                    row |= _spread(figure, used[figure].dropna().to_numpy(float))
                row["fit_agreement"] = agreements.get((str(task), str(method))) if status == "ok" else None
                row |= {f"published_{figure}": published.get(figure) for figure in ("precision", "recall", "f1")}
                rows.append(row)
        return pd.DataFrame(rows)

    def _agreements(self) -> dict[tuple[str, str], float]:
        """Return how far fits of one model agree, by task and method: see :func:`jaccard`; the mean over pairs."""
        masks: dict[tuple[str, str], dict[ProblemSpec, list[np.ndarray]]] = {}
        for result in self.results:
            if result.record.status == "ok":
                for row in result.rows:
                    if row.kind == "method" and row.mask is not None:
                        models = masks.setdefault((result.cell.task, row.method), {})
                        models.setdefault(result.cell.problem, []).append(row.mask)
        pairs = {place: [p for of in models.values() for p in combinations(of, 2)] for place, models in masks.items()}
        return {place: float(np.mean([jaccard(*pair) for pair in of])) for place, of in pairs.items() if of}

    def figures(self) -> pd.DataFrame:
        """Return one row per figure of the other tables: what it is, and how it is read."""
        columns: dict[Table, Iterable[Hashable]] = {
            "scores": self.scores(),
            "comparison": [figure.name for figure in CATALOGUE if figure.table == "comparison"],
            "layers": self.layers(),
            "costs": self.costs(),
            "tasks": self.tasks(),
            "per_graph": chain.from_iterable(row.per_graph for _, row in self._rows),
        }
        told = {table: [str(c) for c in dict.fromkeys(found) if c not in KEYS] for table, found in columns.items()}
        return glossary(told, dict(chain.from_iterable(about.meanings.items() for about in self.about.values())))

    def _sorted(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Order rows by task and seeds, methods before controls; stable within a cell."""
        if frame.empty:
            return frame
        names = {name: i for i, name in enumerate(sorted({result.cell.base for result in self.results}))}
        order = frame["method"].map(lambda name: names.get(base_name(name), len(names)))
        keys = frame.assign(_order=order)[["task", "_order", "method", "data_seed", "model_seed", "fit_seed"]]
        index = np.lexsort([keys[c].to_numpy() for c in reversed(keys.columns)])
        return frame.iloc[index].reset_index(drop=True)

    def write(self, out: Path) -> None:
        """Write all CSV files, each in one step."""
        for view in (self.scores, self.layers, self.costs, self.tasks, self.comparison, self.figures):
            write_atomically(out / f"{view.__name__}.csv", partial(_save, [view()]))
        write_atomically(out / "per_graph.csv", partial(_save, self.per_graph()))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Return which part of the messages that either mask retains both retain (Jaccard 1912); 1 where neither does."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def _placed() -> list[str]:
    """Return the figures that come first in ``scores.csv``, whatever a run has."""
    placed = [(figure.place, figure.name) for figure in CATALOGUE if figure.place is not None and figure.place < LAST]
    return [name for _, name in sorted(placed)]


def _compared(scores: pd.DataFrame) -> list[str]:
    """Return the figures that are compared over seeds, in the order of ``comparison.csv``."""
    known = {str(c): entry_of(str(c)) for c in scores if c not in (*FIRST, "kind")}
    ranks = {c: entry.compared for c, entry in known.items() if entry.compared is not None and entry.unit != "text"}
    return sorted(ranks, key=lambda name: ranks[name])


def write_csv(frame: pd.DataFrame, file: TextIO, header: bool = True) -> None:
    """Write rows of a table as every CSV file has them."""
    frame.to_csv(file, index=False, header=header, float_format="%.6g", lineterminator="\n")


def _save(frames: Iterable[pd.DataFrame], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for i, frame in enumerate(frames):
            write_csv(frame, file, header=not i)
        if not file.tell():
            pd.DataFrame(columns=KEYS).to_csv(file, index=False, lineterminator="\n")


def _identity(result: Result) -> dict[str, Any]:
    cell = result.cell
    return dict(zip(KEYS, (cell.task, cell.method, cell.data_seed, cell.model_seed, cell.fit_seed), strict=True))


def _of_any(told: pd.Series[Any]) -> bool | None:
    """Say whether something is true of any cell; None where no cell says."""
    return bool(told.eq(True).any()) if told.notna().any() else None


def _of_graphs(identity: Mapping[str, Any], row: Scores) -> dict[str, np.ndarray]:
    """Return the columns of one row's graphs, with those that identify the row."""
    columns = dict(row.per_graph)
    if row.unfinished:
        frame = pd.concat([pd.DataFrame(columns), pd.DataFrame({"graph": row.unfinished, "complete": False})])
        columns = {str(name): frame[name].to_numpy() for name in frame}
    count = len(next(iter(columns.values()), ()))
    texts = {key: np.full(count, identity[key], dtype=object) for key in ("task", "method")}
    return texts | {key: np.full(count, identity[key]) for key in KEYS if key not in texts} | columns


def _together(frames: Iterable[dict[str, np.ndarray]], most: int) -> Iterator[list[dict[str, np.ndarray]]]:
    """Yield runs of consecutive frames, of ``most`` rows and little more."""
    run, count = list[dict[str, np.ndarray]](), 0
    for arrays in frames:
        run.append(arrays)
        count += len(arrays["task"])
        if count >= most:
            yield run
            run, count = [], 0
    if run:
        yield run


@cache
def _quantiles(freedom: int) -> tuple[float, float]:
    """Return those of Student's t that a 95% interval lies between."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.025)), float(stdtrit(freedom, 0.975))


def _spread(name: str, values: np.ndarray) -> dict[str, float | None]:
    """Return mean and standard deviation, and from 3 cells on the t interval of the mean (target: new models)."""
    count = len(values)
    mean = float(values.mean()) if count else None
    deviation = float(values.std(ddof=1)) if count > 1 else None
    low = high = None
    if count >= CONFIDENCE_CELLS and mean is not None and deviation is not None:
        low, high = (mean + quantile * deviation / count**0.5 for quantile in _quantiles(count - 1))
    return {f"{name}_mean": mean, f"{name}_std": deviation, f"{name}_low": low, f"{name}_high": high}
