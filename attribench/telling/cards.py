"""Cards of tasks, which are written from the tables that a study has kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..base.errors import UserError
from ..base.names import base_name
from ..scoring.figures import CATALOGUE
from .kept import CODE

END_MARK = "†"
ROOT = Path(__file__).resolve().parent.parent.parent


class Reference:
    """The reference results of a study, for a card's template."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[tuple[str, str], pd.DataFrame] = {}
        self._complete: dict[str, pd.DataFrame] = {}

    def study(self, name: str) -> Reference:
        """Return the reference results of another study."""
        return Reference(self.folder.parent / name)

    def made(self, run: str) -> bool:
        """Say whether there are results of a run."""
        return (self.folder / run / "comparison.csv").is_file()

    def older(self) -> list[str]:
        """Return the runs with rows that do not say which code made them: those of today's studies do."""
        tables = {path.parent.name: self.table(path.parent.name) for path in self.folder.glob("*/comparison.csv")}
        return sorted(name for name, x in tables.items() if CODE not in x or not bool(x[CODE].notna().all()))

    def table(self, run: str, view: str = "comparison") -> pd.DataFrame:
        """Return a view of a run.

        Raises:
            UserError: when it is not there, as after an interrupted study.
        """
        if (run, view) not in self._tables:
            path = self.folder / run / f"{view}.csv"
            try:
                self._tables[run, view] = pd.read_csv(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise UserError(f"expected the results of a study; {path}: {reason}: run the whole study") from error
        return self._tables[run, view]

    def complete(self, run: str) -> pd.DataFrame:
        """Return the rows of a comparison that have figures. A card asks for them hundreds of times."""
        if run not in self._complete:
            table = self.table(run)
            self._complete[run] = table[(table["status"] == "ok") & (table["cells"] > 0)]
        return self._complete[run]

    def value(self, run: str, method: str, figure: str, task: str | None = None) -> float:
        """Return a figure of one row of a comparison."""
        table = self.complete(run)
        rows = _of(table, method, task)
        if not rows.any():
            raise UserError(
                f"expected complete cells of {method} on {task or 'any task'} in the reference run {run!r}; got none: "
                f"{self.folder / run / 'scores.csv'} says how they ended"
            )
        return float(self._column(run, "comparison", figure)[rows[rows].index[0]])

    def _column(self, run: str, view: str, figure: str) -> pd.Series[Any]:
        """Return a figure of every row; rows may have been made at different times, and none by code that has it."""
        table = self.table(run, view)
        if figure not in table:
            raise UserError(
                f"expected {figure} in {self.folder / run / f'{view}.csv'}; no row has it: make the run anew with "
                f"`study --only {run}`"
            )
        return table[figure]

    def get(self, run: str, method: str, figure: str, task: str | None = None) -> float | None:
        """Return a figure of one row of a comparison; None where there is none."""
        if figure not in self.table(run) or (task is not None and method not in self.rows(run, task)):
            return None
        value = self.value(run, method, figure, task)
        return None if math.isnan(value) else value

    def mark(self, run: str, method: str, task: str) -> str:
        """Return a mark where, for some cell, no threshold between keeping all and nothing did better on validation."""
        table = self.table(run)
        if "threshold_at_end" not in table:
            return ""
        return END_MARK if table.loc[_of(table, method, task), "threshold_at_end"].eq(True).any() else ""

    def marked(self, run: str, method: str, task: str) -> int:
        """Return how many cells say of their fit what the tables note beside a name: unsettled, keeps nearly all."""
        table = self.table(run, "scores")
        noted = [figure.name for figure in CATALOGUE if figure.note and figure.name in table]
        said = table.loc[_of(table, method, task), [name for name in noted if name.startswith("fit_")]]
        return int(said.eq(True).any(axis=1).sum())

    def lowest(self, run: str, method: str, figure: str, task: str) -> float:
        """Return the smallest value over the cells of a figure of the scores; a cell without one counts as 0."""
        return min(0.0 if math.isnan(value) else value for value in self.each(run, method, figure, task))

    def each(self, run: str, method: str, figure: str, task: str) -> list[float]:
        """Return a figure of the scores for every cell, in the order of the seeds; NaN for a cell without one."""
        table = self.table(run, "scores")
        return [float(x) for x in self._column(run, "scores", figure)[_of(table, method, task)]]

    def figures(self, run: str, task: str, figure: str) -> list[float]:
        """Return a figure of every problem of a task, in the order of the seeds; nothing where there is none."""
        table = self.table(run, "tasks")
        return [float(x) for x in table.loc[table["task"] == task, figure].dropna()] if figure in table else []

    def smallest_lead(self, better: tuple[str, str], worse: tuple[str, str], figure: str) -> float:
        """Return the smallest difference of a figure between two tasks, each (run, task), of the same seeds.

        Raises:
            UserError: when their seeds differ.
        """
        seeds = ["data_seed", "model_seed"]
        first, second = (
            self.table(run, "tasks").query("task == @task").set_index(seeds)[figure] for run, task in (better, worse)
        )
        if first.empty or not first.index.equals(second.index):
            raise UserError(f"expected the same seeds of {better} and {worse}; got others: run the study")
        return float((first - second).min())

    def by_layer(self, run: str, method: str, figure: str, task: str) -> list[float]:
        """Return the mean over cells of a figure of every layer, from the first."""
        table = self.table(run, "scores")
        number = sum(str(name).startswith(f"{figure}_layer_") for name in table)
        means = (self.mean(run, method, f"{figure}_layer_{k}", task) for k in range(number))
        return [x for x in means if not math.isnan(x)]

    def methods_where(self, run: str, task: str, column: str, text: str) -> list[str]:
        """Return the methods with a cell whose column of the scores has this text in it."""
        table = self.table(run, "scores")
        rows = table.loc[(table["kind"] == "method") & (table["task"] == task), ["method", column]]
        return [str(name) for name in rows[rows[column].fillna("").str.contains(text, regex=False)]["method"].unique()]

    def endings(self, run: str, but: Sequence[str] = ("ok",)) -> list[str]:
        """Return what the scores say of cells whose status is none of ``but``: task, method, status and reason."""
        table = self.table(run, "scores")
        rows = table[~table["status"].isin(but) & (table["kind"] == "method")]
        lines = [f"`{row.method}` on {row.task}: {row.status}, {row.reason}" for row in rows.itertuples()]
        return list(dict.fromkeys(lines))

    def finished(self, run: str, method: str, figure: str, task: str) -> list[float]:
        """Return a figure of the scores for every cell that has one, in the order of the seeds."""
        return [x for x in self.each(run, method, figure, task) if not math.isnan(x)]

    def rows(self, run: str, task: str, kinds: Sequence[str] = ("method", "control")) -> list[str]:
        """Return the methods and controls that have figures for a task, in the order of the table."""
        table = self.complete(run)
        return [str(name) for name in table.loc[(table["task"] == task) & table["kind"].isin(kinds), "method"]]

    def methods(self, run: str, task: str) -> list[str]:
        """Return the methods that have figures for a task."""
        return self.rows(run, task, ("method",))

    def tasks(self, run: str, task: str) -> list[str]:
        """Return a task and its variants, in the order of the table."""
        return [name for name in self.tasks_of(run) if base_name(name) == task]

    def tasks_of(self, run: str) -> list[str]:
        """Return the tasks of a run, in the order of the table."""
        return [str(name) for name in self.table(run)["task"].unique()]

    def confirmed(self, run: str, task: str) -> str:
        """Return of how many models of a task the gold was confirmed, "4 of 5"."""
        table = self.table(run, "tasks")
        marks = table.loc[table["task"] == task, "gold_confirmed"]
        return f"{int(marks.eq(True).sum())} of {len(marks)}"

    def mean(self, run: str, method: str, figure: str, task: str | None = None) -> float:
        """Return the mean over cells of a figure of the scores."""
        table = self.table(run, "scores")
        return float(self._column(run, "scores", figure)[(table["status"] == "ok") & _of(table, method, task)].mean())

    def variants(self, run: str, method: str) -> list[str]:
        """Return a method and its variants, in the order of the table."""
        names = self.table(run)["method"]
        return [str(name) for name in names if base_name(str(name)) == method]


def render_card(study: str, beside: Path | None = None, **about: Any) -> str:
    """Render ``<study>_card.md.j2`` with the reference results of the study.

    They are under ``reference/<study>`` beside the template, as in a package, or under ``results/reference/<study>``
    beside its folder, as in a checkout.

    Args:
        study: name of the study; several tasks may share one.
        beside: the folder of the template, which is a task's; without it that of the tasks that come along.
        about: further variables of the template, such as the task's name.
    """
    templates = beside or ROOT / "tasks"
    places = (templates / "reference" / study, templates.parent / "results" / "reference" / study)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        return (
            f"The reference results of {study!r} are not here. In the repository, `python -m attribench study "
            f"tasks/{study}_study.toml --out results/reference/{study}` makes them."
        )
    return render(f"{study}_card.md.j2", [templates], reference=Reference(folder), **about)


def render(template: str, folders: Sequence[Path], **about: Any) -> str:
    """Render a template that is in one of some folders."""
    environment = Environment(loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = _percent
    return environment.get_template(template).render(**about)


def _of(table: pd.DataFrame, method: str, task: str | None) -> pd.Series[bool]:
    """Say which rows are of a method on a task, or on any: of wide tables, one column of them is then taken."""
    rows = table["method"] == method
    return rows if task is None else rows & (table["task"] == task)


def _percent(value: Any) -> str:
    number = float(value)
    return "-" if math.isnan(number) else f"{100 * number:z.1f}"
