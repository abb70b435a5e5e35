"""The small tables that a study keeps of a run. Their rows may come from different times, and say which code made each.

A table is text here: rows that stay are written again as they stand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd

from ..base.errors import UserError
from ..base.files import write_atomically
from .tables import Report, write_csv

KEPT = ("comparison", "scores", "tasks")
CODE = "code"
"""The column that says which code made a row."""

Tables = dict[str, pd.DataFrame]
"""The kept tables of a run by their names, all texts."""

Codes = Mapping[tuple[str, str], str]
"""The code of every method on a task, (task, method), and of the task's problems, (task, "")."""


def tables_of(report: Report, codes: Codes) -> Tables:
    """Return the tables of a run, each row with its code; that of a method's controls is the method's."""
    makers = {(problem.task, row.method): "" for problem in report.problems for row in problem.rows}
    makers |= {(r.cell.task, row.method): r.cell.method for r in report.results for row in r.rows}
    tables = {name: _as_text(getattr(report, name)()) for name in KEPT}
    for table in tables.values():
        methods = table["method"] if "method" in table else [""] * len(table)
        rows = list(zip(table["task"], methods, strict=True))
        table[CODE] = [codes[task, makers.get((task, method), method)] for task, method in rows]
    return tables


def read_tables(folder: Path) -> Tables | None:
    """Return the tables that were kept in a folder; None where there is none of them.

    Raises:
        UserError: when some are missing, or one is no such table.
    """
    needed = {"comparison": ["task", "method", "kind"], "scores": ["task", "method"], "tasks": ["task"]}
    if not any((folder / f"{name}.csv").exists() for name in KEPT):
        return None
    return {name: _read(folder / f"{name}.csv", needed[name]) for name in KEPT}


def joined(made: Tables, kept: Tables, tasks: Collection[str], methods: Collection[str] | None = None) -> Tables:
    """Return the tables that were made of some tasks, beside the kept rows of all others.

    Their columns are those of what was made, in its order. A column that only kept rows have stands behind the one that
    it stood behind. Where some methods alone were made it is the other way round.

    Args:
        made, kept: tables.
        tasks: whose rows are taken from what was made.
        methods: whose rows, and whose controls', these are; None for all, and what is said of the tasks themselves.
    """
    found = {}
    for name, table in made.items():
        before, here = kept[name], kept[name]["task"].isin(tasks)
        if methods is None:
            stays = before[~here]
        elif "method" in table:
            stays = before[~(here & _of_methods(before, methods))]
            table = table[_of_methods(table, methods)]
        else:
            stays, table = before, table.iloc[:0]
        columns = _columns(table, stays) if methods is None else _columns(before, table)
        rows = pd.concat([part.reindex(columns=columns, fill_value="") for part in (table, stays)])
        found[name] = rows if methods is None else _in_order_of(before, rows)
    return found


def _of_methods(table: pd.DataFrame, methods: Collection[str]) -> pd.Series[bool]:
    """Return which rows are of some methods, or of controls of theirs, such as ``random(METHOD)``."""
    ends = tuple(f"({method})" for method in methods)
    return table["method"].isin(methods) | table["method"].str.endswith(ends)


def _in_order_of(before: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the order that those of the same tasks and methods had; new ones come last."""
    if "method" not in rows:
        return rows
    places = {pair: i for i, pair in enumerate(dict.fromkeys(zip(before["task"], before["method"], strict=True)))}
    pairs = zip(rows["task"], rows["method"], strict=True)
    order = pd.Series([places.get(pair, len(places)) for pair in pairs], dtype="int64")
    return rows.iloc[order.argsort(kind="stable")]


def write_tables(folder: Path, tables: Tables, order: Sequence[str]) -> None:
    """Write the tables, each in one step, their tasks in an order; others come last, as they stand.

    Raises:
        UserError: when the folder cannot be written, or is full.
    """
    places = {task: place for place, task in enumerate(order)}
    for name, table in tables.items():
        place = table["task"].map(lambda task: places.get(task, len(places)))
        rows = table.iloc[place.argsort(kind="stable")]
        write_atomically(folder / f"{name}.csv", partial(_write, rows))


def other_code(tables: Tables, codes: Codes) -> list[str]:
    """Return the tasks with rows that are not of this code, are missing, or are of no task or method in it."""
    return list(dict.fromkeys(task for task, _ in rows_of_other_code(tables, codes)))


def rows_of_other_code(tables: Tables, codes: Codes) -> list[tuple[str, str]]:
    """Return the same row by row, as (task, method); the method of what is said of a task's problems is empty."""
    comparison, problems = tables["comparison"], tables["tasks"]
    methods = comparison[comparison["kind"] == "method"]
    found = {(row["task"], row["method"]): row.get(CODE, "") for row in methods.to_dict("records")}
    missing = [(task, method) for task, method in codes if method and (task, method) not in found]
    found |= {(row["task"], ""): row.get(CODE, "") for row in problems.to_dict("records")}
    return missing + [place for place, code in found.items() if codes.get(place) != code]


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table as its CSV file has it."""
    text = StringIO()
    write_csv(frame if len(frame.columns) else frame.reindex(columns=["task"]), text)
    text.seek(0)
    return _texts(text)


def _texts(source: StringIO | Path) -> pd.DataFrame:
    return pd.read_csv(source, dtype=str, na_filter=False)


def _read(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    try:
        table = _texts(path)
    except (OSError, ValueError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
    else:
        missing = [name for name in needed if name not in table]
        if not missing:
            return table
        reason = f"no column {missing[0]!r}"
    raise UserError(
        f"expected the kept tables of a run; {path}: {reason}: make the whole run, --only {path.parent.name}"
    )


def _columns(made: pd.DataFrame, kept: pd.DataFrame) -> list[str]:
    columns, before = list(map(str, made)), -1
    for name in map(str, kept):
        if name not in columns:
            columns.insert(before + 1, name)
        before = columns.index(name)
    return columns


def _write(table: pd.DataFrame, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(table, file)
