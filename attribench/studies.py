"""Studies: several runs of one file, made whole or in part, whose small tables are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from . import api
from .base.errors import UserError
from .base.progress import Progress
from .running.keys import Keys
from .running.options import run_options
from .running.plan import Plan
from .running.planning import make_plan, read_study
from .telling.kept import Codes, joined, other_code, read_tables, rows_of_other_code, tables_of, write_tables
from .telling.results import Results


@dataclass(frozen=True)
class Part:
    """What is to be made of one run of a study.

    Args:
        name: of the run.
        options: the run's, as the file has them.
        plan: of the whole run.
        codes: today's, of the whole run.
        tasks, methods: whose rows are made.
        kept: where its tables are kept.
    """

    name: str
    options: dict[str, Any]
    plan: Plan
    codes: Codes
    tasks: list[str]
    methods: list[str]
    kept: Path

    @property
    def whole(self) -> bool:
        """Whether no row stays."""
        return self.tasks == self.plan.tasks and self.methods == self.plan.methods


@dataclass(frozen=True)
class Made:
    """What became of one run of a study.

    Args:
        part: what was to be made of it.
        results: the run's folder.
        others: tasks whose kept rows are not what today's code would make; None where the run was interrupted and
            nothing was kept.
    """

    part: Part
    results: Results
    others: list[str] | None


def parts_of(file: Path, out: Path, only: Sequence[str] = (), **options: Any) -> list[Part]:
    """Return what is to be made of the runs of a study, in the order of its file; plugins that they name are imported.

    Args:
        file: of the study.
        out: where its tables are kept.
        only: what to make, each ``RUN``, ``RUN,TASK`` or ``RUN,TASK,METHOD``, where the task may be ``all``; everything
            where there is nothing.
        **options: of every run, which win over the file's.

    Raises:
        UserError: for a run, task or method that the study has not, options that are none, or kept tables that cannot
            be read and of which rows are to stay.
    """
    runs = read_study(file)
    # All of them, whatever is made: figures of a plugin are part of what today's code is, and of every run.
    plans = {name: make_plan(run_options(table, **options)) for name, table in runs.items()}
    parts = []
    for name, tasks, methods in _wanted(file, plans, only):
        # Codes are made before anything runs: what is edited meanwhile is not what made it.
        part = Part(name, runs[name], plans[name], _codes(plans[name]), tasks, methods, out / name)
        if not part.whole:
            read_tables(part.kept)
        parts.append(part)
    return parts


def make(part: Part, folder: Path, progress: Progress | bool = True, **options: Any) -> Made:
    """Run a part of a study in a results folder, and keep its tables; interrupted, what was kept stays as it is.

    Args:
        part: what to make.
        folder: for the run; finished cells in it are not run again.
        progress: where to show it; True for standard error.
        **options: of the run, which win over the file's.

    Raises:
        UserError: as for :func:`attribench.api.run`.
    """
    file = {"run": {**part.options, "task": part.tasks, "methods": part.methods, "out": str(folder)}}
    results = api.run(file=file, progress=progress, **options)
    assert results.ending is not None
    if results.ending.done < results.ending.planned:
        return Made(part, results, None)
    cells = {cell for cell in part.plan.cells() if cell.task in part.tasks and cell.method in part.methods}
    tables = tables_of(results.ending.report.part(cells), part.codes)
    some = None if part.methods == part.plan.methods else part.methods
    with FileLock(folder / ".locks" / "kept.lock"):  # another part of the run may be made at the same time
        kept = None if part.whole else read_tables(part.kept)
        tables = tables if kept is None else joined(tables, kept, part.tasks, some)
        write_tables(part.kept, tables, part.plan.tasks)
    return Made(part, results, other_code(tables, part.codes))


def stale(part: Part) -> list[tuple[str, str]]:
    """Return the rows of a part that are not of today's code, or not there, as (task, method).

    The method of what is said of a task's problems is empty. Of a whole run, rows that it no longer has are among them.
    """
    tables = read_tables(part.kept)
    others = list(part.codes) if tables is None else rows_of_other_code(tables, part.codes)
    own = (*part.methods, "")
    return [(t, m) for t, m in others if part.whole or (t in part.tasks and m in own)]


def _wanted(file: Path, plans: Mapping[str, Plan], only: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """Return what is to be made: runs, tasks of them, and methods on these, all in the order of the study."""
    wanted: dict[str, set[tuple[str, str]]] = {name: set() for name in plans}
    for text in only or plans:
        name, *rest = (part.strip() for part in re.split(r",(?![^\[]*\])", text))  # at commas outside brackets
        if name not in plans:
            raise UserError(
                f"expected a run of {file} among {', '.join(plans)}; got {name!r}: write it as the study does"
            )
        if len(rest) > 2:
            raise UserError(f"expected RUN, RUN,TASK or RUN,TASK,METHOD; got {text!r}: say --only several times")
        chosen: list[list[str]] = []
        for kind, names, known in (("task", rest[:1], plans[name].tasks), ("method", rest[1:], plans[name].methods)):
            for one in names:
                if one not in (*known, "all"):
                    raise UserError(
                        f"expected a {kind} of run {name} of {file} among {'; '.join(known)}; got {one!r}: write it as "
                        "the study does"
                    )
            chosen.append([one for one in names if one != "all"] or known)
        wanted[name] |= set(product(chosen[0], chosen[1]))
    found = []
    for name, pairs in wanted.items():
        by_methods: dict[tuple[str, ...], list[str]] = {}
        for task in plans[name].tasks:
            methods = tuple(method for method in plans[name].methods if (task, method) in pairs)
            by_methods.setdefault(methods, []).append(task)
        found += [(name, tasks, list(methods)) for methods, tasks in by_methods.items() if methods]
    return found


def _codes(plan: Plan) -> dict[tuple[str, str], str]:
    """Return today's code of every method on a task of a plan, and of the task's problems."""
    keys = Keys(plan)
    codes: dict[tuple[str, str], str] = {}
    for cell in plan.cells():
        if (cell.task, cell.method) not in codes:  # whatever its seeds
            codes[cell.task, cell.method] = keys.code(cell)
            codes[cell.task, ""] = keys.code(cell.problem)
    return codes
