"""Plans in a results folder: which runs were made there, what of them today's plugins know, and what may be added.

The tables of a folder speak of every current cell in it, whichever command made it, so a folder has one configuration
of a task, method and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from ..base.arrays import DamagedError
from ..base.errors import StorageError, UserError
from ..base.files import logger, say_damaged, write_json
from ..base.names import base_name
from ..base.pieces import vary_alike
from ..plugins.configs import as_dict, as_told
from ..plugins.registry import METHODS, TASKS
from ..storing.records import About
from ..storing.runs import NAME, SCHEMA, Entry, read_entries
from .plan import Plan, select_device


def add_run(folder: Path, plan: Plan, keys: Sequence[str], about: Mapping[str, About], extra: Any) -> list[Entry]:
    """Enter a run into a folder's ``run.json``; return the others that speak of other cells.

    Raises:
        UserError: where a task, or a method on it, was run under another configuration, or with seeds that vary
            otherwise.
        StorageError: when the folder cannot be written.
    """
    path = folder / NAME
    try:
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"expected a writable folder; {folder}: {error.strerror}: choose another with --out"
        ) from error
    with FileLock(folder / ".locks" / "run.lock"):
        try:
            entries = read_entries(path) if path.exists() else []
        except DamagedError:
            say_damaged(path)
            logger.warning("tables of %s leave out what other commands ran there, until they are run again", folder)
            entries = []
        mine, others = set(plan.cells()), []
        for entry in entries:
            known, unknown = known_part(entry, data_dirs(plan))
            if known is not None:
                _refuse_conflict(folder, plan, known)
            if unknown or (known is not None and not mine.issuperset(known.cells())):
                others.append(entry)
        said = {name: asdict(text) for name, text in about.items()}
        entry = Entry(plan=asdict(plan), cells=list(keys), about=said, **extra)
        write_json(path, {"schema": SCHEMA, "runs": [other.model_dump() for other in (*others, entry)]})
    return others


def known_part(entry: Entry, data_dirs: set[str]) -> tuple[Plan | None, int]:
    """Return the part of a run's plan whose plugins are there, and how many of its cells are not in it.

    No path is read because a file says so: what was run with a folder of data is part of it only where that is one of
    ``data_dirs``, which the user named.
    """
    tasks, methods = (_registered(entry.plan.get(kind), kind) for kind in ("tasks", "methods"))
    count = len(entry.keys)
    names = {base_name(name) for name in (*tasks, *methods)}
    overrides = entry.plan.get("overrides")
    mine = {name: values for name, values in overrides.items() if name in names} if isinstance(overrides, dict) else {}
    try:
        plan = Plan(**{**entry.plan, "tasks": tasks, "methods": methods, "overrides": as_told(mine)})
        select_device(plan.device)
        if any(getattr(config, "data_dir", "") not in data_dirs | {""} for config in plan.configs().values()):
            return None, count
    except (UserError, ValidationError, TypeError):
        return None, count
    return plan, max(0, count - len(plan.cells()))


def data_dirs(plan: Plan) -> set[str]:
    """Return the folders of data that a plan names."""
    return {getattr(config, "data_dir", "") for config in plan.configs().values()}


def _registered(names: Any, kind: str) -> list[str]:
    registry = set(TASKS if kind == "tasks" else METHODS)
    listed = names if isinstance(names, list) else []
    return [name for name in listed if isinstance(name, str) and base_name(name) in registry]


def refuse_conflicts(folder: Path, plan: Plan, entries: Sequence[Entry]) -> None:
    """Raise UserError where a folder's runs leave no room for a plan, as :func:`add_run` would."""
    for entry in entries:
        known, _ = known_part(entry, data_dirs(plan))
        if known is not None:
            _refuse_conflict(folder, plan, known)


def _refuse_conflict(folder: Path, plan: Plan, other: Plan) -> None:
    """Raise UserError where both plans have a task, or a method on it, and their cells could not be in one table."""
    mine, theirs = plan.configs(), other.configs()
    ran = ("device", "threads", "max_edges", "randomised_graphs")
    for task in (name for name in plan.tasks if name in other.tasks):
        wanted, stored = (
            {**_named(task, configs[task]), **{name: getattr(made, name) for name in ran}}
            for made, configs in ((plan, mine), (other, theirs))
        )
        _refuse(task, folder, wanted, stored)
        if not vary_alike(cell for made in (plan, other) for cell in made.cells() if cell.task == task):
            raise UserError(
                f"expected the seeds of {task} in {folder} to vary alike, as means are taken over them; it was run "
                f"there with {_seeds(other)}, and now {_seeds(plan)}: choose another --out"
            )
        for method in (name for name in plan.methods if name in other.methods):
            _refuse(f"{task} · {method}", folder, _named(method, mine[method]), _named(method, theirs[method]))


def _seeds(plan: Plan) -> str:
    return f"--vary {','.join(plan.vary)} --first-seed {plan.seeds[0]} --seeds {len(plan.seeds)}"


def _named(name: str, config: Any) -> dict[str, Any]:
    return {f"{base_name(name)}.{option}": value for option, value in as_dict(config).items()}


def _refuse(what: str, folder: Path, wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if stored[name] != value:
            raise UserError(
                f"expected one configuration of {what} in {folder}; it was run there with {name}={stored[name]}, and "
                f"now {name}={value}: choose another --out"
            )


def read_plans(path: Path, plugins: list[str], data_dir: str | None = None) -> list[tuple[Plan, list[str]]]:
    """Return the plans that ``run`` wrote to a ``run.json``, each with the keys of its cells; the last comes first.

    Args:
        path: the file.
        plugins: those that the user named; the file cannot name any.
        data_dir: folder of data that the user named; the file cannot name one either.

    Raises:
        UserError: when it is anything else, was run with other plugins or with a folder of data, or holds runs whose
            cells could not be in one table.
    """
    try:
        plans = [_read_plan(path, entry, plugins, data_dir) for entry in reversed(read_entries(path))]
        # Runs that did not know each other's plugins may have met here.
        for i, (plan, _) in enumerate(plans):
            for earlier, _ in plans[i + 1 :]:
                _refuse_conflict(path.parent, plan, earlier)
        return plans
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"expected a folder that `run` wrote; {path}: {where}: {first['msg']}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (DamagedError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"expected a folder that `run` wrote; {type(error).__name__}: {error}") from error


def _read_plan(path: Path, entry: Entry, plugins: list[str], data_dir: str | None) -> tuple[Plan, list[str]]:
    missing = [source for source in entry.plan.get("plugins", []) if source not in plugins]
    if missing:
        raise UserError(
            f"expected the plugins of this run by name; {path} was made with {', '.join(map(repr, missing))}: "
            "give each with --plugin if you trust it"
        )
    plan = _with_data(Plan(**{**entry.plan, "overrides": as_told(entry.plan.get("overrides"))}), data_dir)
    if plan.device == "auto":
        raise UserError("expected the device of the run; got 'auto': run it again")
    cells = plan.cells()
    if not isinstance(entry.cells, list) or len(entry.cells) != len(cells) or len(entry.keys) != len(cells):
        raise UserError(f"expected the keys of {len(cells)} cells; got something else: run it again")
    return plan, entry.keys


def _with_data(plan: Plan, data_dir: str | None) -> Plan:
    """Return the plan with the user's folder of data in place of the one that it names."""
    named = {name: folder for name, config in plan.configs().items() if (folder := getattr(config, "data_dir", ""))}
    if not named:
        return plan
    if data_dir is None:
        name, folder = next(iter(named.items()))
        raise UserError(
            f"expected the folder of data by name; the run of {name} was made with {folder!r}: give it with --data-dir "
            "if you trust it"
        )
    bases = {base_name(name) for name in named}
    own = {name: {**plan.overrides.get(name, {}), "data_dir": data_dir} for name in bases}
    chosen = replace(plan, overrides={**plan.overrides, **own})
    kept = [name for name in named if chosen.configs()[name].data_dir != data_dir]
    if kept:
        raise UserError(f"expected no folder of data in the name of a variant; got {kept[0]!r}: run it again, without")
    return chosen
