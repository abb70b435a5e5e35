"""From options to a plan: plugins are imported, names resolved, and the options of families given to their tasks."""

from __future__ import annotations

import re
from pathlib import Path

from ..base.errors import UserError
from ..base.names import base_name, split_names
from ..plugins.configs import Overrides, merge, read_config
from ..plugins.registry import METHODS, TASKS, load_plugin
from .options import RunOptions
from .plan import Plan, select_device


def read_study(file: Path) -> Overrides:
    """Return the tables of a study's file: the options of each of its runs, by name.

    Raises:
        UserError: for a name that could be no folder's.
    """
    runs = read_config(file)
    for name in (file.stem, *runs):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
            raise UserError(f"expected letters, digits, - and _ in the names of {file} and its runs; got {name!r}")
    return runs


def make_plan(options: RunOptions, file: Overrides | None = None, named: Overrides | None = None) -> Plan:
    """Return the plan of these options; plugins that they name are imported.

    Args:
        options: of the run.
        file: options of tasks, families of tasks and methods in a file; it may configure some that this run leaves out.
        named: those on the command line, which win over the file's, as does the folder of data.

    Raises:
        UserError: for a task, method, option or device that is not there.
    """
    file, named = file or {}, named or {}
    for source in options.plugin:
        load_plugin(source)
    tasks, methods = TASKS.resolve(options.task), METHODS.resolve(options.methods)
    families = {TASKS[name].family for name in TASKS}
    for name in (*file, *named):
        if name != base_name(name):
            raise UserError(f"expected options of a task or method; got those of {name!r}: put them into its name")
        if name not in [*TASKS, *METHODS, *families]:
            METHODS[name]
    bases = list(dict.fromkeys(base_name(name) for name in tasks))
    used = [*bases, *(base_name(name) for name in methods)]
    of_file = {name: values for name, values in _of_tasks(file, bases).items() if name in used}
    first = options.first_seed
    return Plan(
        tasks=tasks,
        methods=methods,
        overrides=merge(of_file, _data_options(bases, options.data_dir), _of_tasks(named, bases)),
        vary=split_names(",".join(options.vary)),
        seeds=list(range(first, first + options.seeds)),
        device=select_device(options.device),
        threads=options.threads,
        max_edges=options.max_edges,
        randomised_graphs=options.randomised_graphs,
        plugins=options.plugin,
    )


def _of_tasks(overrides: Overrides, tasks: list[str]) -> Overrides:
    """Return overrides with those of a family given to each of its tasks, whose own win."""
    shared = [{name: overrides[TASKS[name].family]} for name in tasks if TASKS[name].family in overrides]
    given = {TASKS[name].family for name in tasks}
    return merge(*shared, {name: values for name, values in overrides.items() if name not in given})


def _data_options(tasks: list[str], folder: Path | str | None) -> Overrides:
    """Return the option that names the folder of data, for the tasks that have it."""
    if folder is None:
        return {}
    readers = [name for name in tasks if hasattr(TASKS[name].Config(), "data_dir")]
    if not readers:
        raise UserError(f"expected a task that reads --data-dir; {', '.join(tasks)} bring their own data: leave it out")
    return {name: {"data_dir": str(folder)} for name in readers}
