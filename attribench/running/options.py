"""Options of a run, from the command line and from a file, and the plan that they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..model.graphs import MAX_EDGES
from ..plugins.configs import Overrides, base_name, merge, read_config, split_names
from ..plugins.registry import METHODS, TASKS, load_plugin
from .plan import MOST_THREADS, VARIED, Plan, select_device
from .runner import OVERWRITE


@dataclass(frozen=True)
class _Option:
    """Of a run.

    Args:
        kind: of its value.
        default: where it is not given.
        least, most: bounds of a number.
    """

    kind: type[Any]
    default: Any = None
    least: float = 0
    most: float = float("inf")


OPTIONS = {
    "methods": _Option(list, ["all"]),
    "task": _Option(list, ["toy"]),
    "seeds": _Option(int, 1, 1, 100_000),
    "vary": _Option(list, list(VARIED)),
    "data_dir": _Option(str),
    "first_seed": _Option(int, 0, 0, 2**31),
    "out": _Option(str),
    "device": _Option(str, "auto"),
    "threads": _Option(int, 1, 1, MOST_THREADS),
    "jobs": _Option(int, None, 0, 1024),
    "cell_timeout": _Option(float, None, 0, 1e9),
    "max_edges": _Option(int, MAX_EDGES, 1, 2**40),
    "overwrite": _Option(str, "failed"),
    "randomised_graphs": _Option(int, 100, 0, 2**31),
    "cache_dir": _Option(str),
    "plugin": _Option(list, []),
}


def run_settings(table: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Join the command line's options with those of a table of a file and the defaults; the command line wins.

    Args:
        table: of the file, by names with - or _.
        **given: the command line's, None where it does not say.

    Raises:
        UserError: for a name that is no option, a value of another kind, or a number out of bounds.
    """
    settings = {name: option.default for name, option in OPTIONS.items()}
    for name, value in table.items():
        key = name.replace("-", "_")
        if key not in OPTIONS:
            raise UserError(f"expected options of [run] among {', '.join(OPTIONS)}; got {name!r}")
        settings[key] = _of_kind(OPTIONS[key].kind, name, value)
    settings |= {name: value for name, value in given.items() if value is not None}
    for name, option in OPTIONS.items():
        value = settings[name]
        if option.kind in (int, float) and value is not None and not option.least <= value <= option.most:
            raise UserError(
                f"expected {name} of at least {option.least} and at most {option.most:g}; got {str(value)[:20]}"
            )
    if settings["overwrite"] not in OVERWRITE:
        raise UserError(f"expected --overwrite {', '.join(OVERWRITE)}; got {settings['overwrite']!r}")
    timeout, jobs = settings["cell_timeout"], settings["jobs"]
    if timeout is not None and (timeout == 0 or jobs == 0):
        raise UserError(
            "expected --cell-timeout in seconds above 0, with --jobs of at least 1 (a process of its own can be "
            f"ended); got {timeout:g} and --jobs {jobs}"
        )
    return settings


def read_study(file: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a study's file: the options of each of its runs, by name.

    Raises:
        UserError: for a name that could be no folder's.
    """
    runs = read_config(file)
    for name in (file.stem, *runs):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
            raise UserError(f"expected letters, digits, - and _ in the names of {file} and its runs; got {name!r}")
    return runs


def _of_kind(kind: type[Any], name: str, value: Any) -> Any:
    if kind is list and isinstance(value, str):
        value = [value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elements = value if isinstance(value, list) else []
    if not isinstance(value, kind) or isinstance(value, bool) or not all(isinstance(x, str) for x in elements):
        raise UserError(f"expected a {kind.__name__} for {name} in [run]; got {value!r}")
    return value


def make_plan(settings: Mapping[str, Any], file: Overrides | None = None, named: Overrides | None = None) -> Plan:
    """Return the plan of these settings; plugins that they name are imported.

    Args:
        settings: as :func:`run_settings` gives them.
        file: options of tasks, families of tasks and methods in a file; it may configure some that this run leaves out.
        named: those on the command line, which win over the file's, as does the folder of data.

    Raises:
        UserError: for a task, method, option or device that is not there.
    """
    file, named = file or {}, named or {}
    for source in settings["plugin"]:
        load_plugin(source)
    tasks, methods = TASKS.resolve(settings["task"]), METHODS.resolve(settings["methods"])
    families = {TASKS[name].family for name in TASKS}
    for name in (*file, *named):
        if name not in [*TASKS, *METHODS, *families]:
            METHODS[name]
    bases = list(dict.fromkeys(base_name(name) for name in tasks))
    used = [*bases, *(base_name(name) for name in methods)]
    of_file = {name: values for name, values in _of_tasks(file, bases).items() if name in used}
    first = settings["first_seed"]
    return Plan(
        tasks=tasks,
        methods=methods,
        options=merge(of_file, _data_options(bases, settings["data_dir"]), _of_tasks(named, bases)),
        vary=split_names(",".join(settings["vary"])),
        seeds=list(range(first, first + settings["seeds"])),
        device=select_device(settings["device"]),
        threads=settings["threads"],
        max_edges=settings["max_edges"],
        randomised_graphs=settings["randomised_graphs"],
        plugins=settings["plugin"],
    )


def _of_tasks(options: Overrides, tasks: list[str]) -> Overrides:
    """Return options with those of a family given to each of its tasks, whose own win."""
    shared = [{name: options[TASKS[name].family]} for name in tasks if TASKS[name].family in options]
    given = {TASKS[name].family for name in tasks}
    return merge(*shared, {name: values for name, values in options.items() if name not in given})


def _data_options(tasks: list[str], folder: Path | str | None) -> Overrides:
    """Return the option that names the folder of data, for the tasks that have it."""
    if folder is None:
        return {}
    readers = [name for name in tasks if hasattr(TASKS[name].Config(), "data_dir")]
    if not readers:
        raise UserError(f"expected a task that reads --data-dir; {', '.join(tasks)} bring their own data: leave it out")
    return {name: {"data_dir": str(folder)} for name in readers}
