"""What a run says on the terminal: a table per task, what its headings mean, and what did not end well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base.pieces import varied
from ..scoring.families import fits
from ..scoring.figures import CATALOGUE, Figure, entry_of

if TYPE_CHECKING:
    from .tables import Report

MEAN = "_mean"
"""What the comparison calls the mean over cells of a figure of the scores."""


@dataclass(frozen=True)
class Column:
    """A column of the terminal's table: a figure, or those of one family beside each other, as of every layer.

    Args:
        figure: the catalogue's.
        names: the columns of the comparison and of the costs that it shows.
    """

    figure: Figure
    names: tuple[str, ...]

    def cell(self, row: Mapping[Any, Any]) -> str:
        """Return what is printed of a row."""
        values = [row[name] for name in self.names if row[name] is not None and not math.isnan(row[name])]
        return " ".join(f"{self.figure.scale * x:z.{self.figure.digits}f}" for x in values) or "-"


def columns_of(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of the terminal's table in their order: the catalogue's, then those of strangers."""
    stems = [str(name).removesuffix(MEAN) for name in frame if str(name).endswith(MEAN)]
    strangers = dict.fromkeys(entry for entry in map(entry_of, stems) if entry not in CATALOGUE)
    told = [x for x in (*CATALOGUE, *strangers) if x.label and x.table in ("scores", "comparison", "costs")]
    columns = []
    for figure in told:
        pattern = figure.name + (MEAN if figure.table == "scores" else "")
        columns.append(Column(figure, tuple(str(name) for name in frame if fits(pattern, str(name)))))
    return columns


def _that_fit(shown: Sequence[Column], widths: Mapping[Column, int], room: int) -> list[Column]:
    """Return the columns that a terminal has room for; the CSV files have everything."""
    left = list(shown)
    dispensable = [column for column in shown if column.figure.drop is not None]
    for column in sorted(dispensable, key=lambda column: column.figure.drop or 0):
        if sum(widths[x] for x in left) > room:
            left.remove(column)
    return left


def print_comparison(report: Report, console: Console) -> None:
    """Print the comparison as one table per task, and what the tasks say about their models."""
    costs = report.costs().drop(columns=["data_seed", "model_seed", "fit_seed", "status"])
    rows = report.comparison().join(costs.groupby(["task", "method"]).mean(numeric_only=True), on=["task", "method"])
    columns = columns_of(rows)
    explained: set[Figure] = set()
    for task in report.task_names():
        mine = rows[rows["task"] == task]
        records = mine.to_dict("records")
        names = [_name(row) for row in records]
        filled = [column for column in columns if mine[list(column.names)].notna().any(axis=None)]
        cells = {column: [column.cell(row) for row in records] for column in filled}
        widths = {x: 1 + max(5, len(x.figure.label), *map(len, texts)) for x, texts in cells.items()}
        shown = _that_fit(filled, widths, console.width - 3 - max(map(len, names)))
        explained |= {column.figure for column in shown}
        explained |= {figure for figure in _noted() if figure.name in mine and mine[figure.name].eq(True).any()}
        title = escape(f"{task}: {report.about[task].summary}")
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
        table.add_column("method", no_wrap=True)
        for column in shown:
            table.add_column(escape(column.figure.label), justify="right", no_wrap=True, min_width=5)
        for kind in ("method", "control"):
            for i in (mine["kind"] == kind).to_numpy().nonzero()[0]:
                texts = (cells[column][i] for column in shown)
                table.add_row(escape(names[i]), *texts, style="dim" if kind == "control" else None)
            table.add_section()
        console.print(table)
    told = [column.figure for column in columns] + _noted()
    legend = escape(_legend(figure for figure in told if figure in explained))
    console.print(f"Percent, means over cells{_varied(report)}. {legend}.", style="dim", highlight=False)
    for line in _remarks(report):
        console.print(line, markup=False, highlight=False)


def _varied(report: Report) -> str:
    """Return what differs between the cells that means are over, for each task where tasks differ in it."""
    tasks: dict[str, list[str]] = {}
    for task in report.task_names():
        of = ", ".join(varied(result.cell for result in report.results if result.cell.task == task))
        tasks.setdefault(of, []).append(task)
    told = [f"{of} ({', '.join(names)})" if len(tasks) > 1 else of for of, names in tasks.items() if of]
    return f", which differ in seeds of {'; '.join(told)}" if told else ""


def _noted() -> list[Figure]:
    """Return the figures that are noted beside a method's name where they are true of any of its cells."""
    return [figure for figure in CATALOGUE if figure.note]


def _legend(figures: Iterable[Figure]) -> str:
    said = {x.label or f"({x.note})": x.meaning if x.legend is None else x.legend for x in figures}
    return "; ".join(f"{heading}: {text}" for heading, text in {**said, "-": "none"}.items() if text)


def _remarks(report: Report) -> list[str]:
    """Say which models were explained, whether the gold holds for them, and which cells did not end well."""
    lines = []
    for task, rows in report.tasks().groupby("task", sort=False) if report.problems else []:
        numbers = rows.select_dtypes("number").drop(columns=["data_seed", "model_seed"])
        figures = numbers[[c for c in numbers if entry_of(str(c), "tasks").label]]
        parts = ", ".join(f"{name} {value:.3f}" for name, value in figures.min().dropna().items())
        confirmed = rows["gold_confirmed"].dropna()
        audited = f"gold confirmed for {int(confirmed.sum())} of {len(confirmed)} models"
        verdict = audited if len(confirmed) else "no audit of a gold standard"
        lines.append(f"{task}: {verdict}; lowest over {len(rows)} model{'s' * (len(rows) > 1)}: {parts}")
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
    notes += [figure.note for figure in _noted() if row.get(figure.name) is True]  # tables may be older than a figure
    return f"{row['method']} ({', '.join(notes)})" if notes else str(row["method"])
