"""What a run consists of: tasks, methods, configurations, seeds and device."""

from __future__ import annotations

import subprocess
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from ..base.arrays import DamagedError
from ..base.errors import UserError
from ..model.graphs import MAX_EDGES
from ..plugins.configs import Overrides, make_config, variant_options
from ..plugins.registry import METHODS, TASKS
from ..storing.pieces import Cell, Grounds
from ..storing.store import is_key, read_json

MOST_CELLS = 1_000_000
MOST_THREADS = 1024
VARIED = ("data", "model", "fit")
"""What a seed is of."""


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Plan:
    """What a run consists of; ``run.json`` holds it, and ``score`` reads it from there.

    Args:
        tasks, methods: names.
        options: overrides of the plugins' defaults.
        seeds: of the cells.
        vary: which of ``data``, ``model`` and ``fit`` take each of the seeds; the others take the first.
        device: ``cpu`` or ``cuda[:i]``.
        threads: PyTorch threads, the same for every cell.
        max_edges: the most edges that one pass holds; larger batches are split.
        randomised_graphs: test graphs on which every method also explains a model with shuffled weights (Adebayo et al.
            2018); 0 for none.
        plugins: files or modules that were imported.
    """

    tasks: list[str]
    methods: list[str]
    options: Overrides
    seeds: list[Annotated[int, Field(ge=0)]]
    device: str
    vary: list[str] = field(default_factory=lambda: list(VARIED))
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    max_edges: Annotated[int, Field(ge=1)] = MAX_EDGES
    randomised_graphs: Annotated[int, Field(ge=0)] = 100
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "seeds", "vary"):
            if not getattr(self, name):
                raise UserError(f"expected at least one of {name}; got none")
        if not set(self.vary) <= set(VARIED):
            raise UserError(f"expected --vary of {', '.join(VARIED)}; got {', '.join(self.vary)}")
        count = len(self.tasks) * len(self.methods) * len(self.seeds)
        if count > MOST_CELLS:
            raise UserError(f"expected at most {MOST_CELLS} cells (tasks x methods x seeds); got {count}")
        named = [name.partition("[")[0] for name in (*self.tasks, *self.methods)]
        both = {n.partition("[")[0] for n in self.tasks} & {n.partition("[")[0] for n in self.methods}
        if both:
            raise UserError(
                f"expected different names for methods and tasks; got {', '.join(both)} as both: rename one"
            )
        for name in self.options:
            if name not in named:
                raise UserError(
                    f"expected --set for a task or method of this run ({', '.join([*self.tasks, *self.methods])}); "
                    f"got {name!r}: add it to the run, or leave the option out"
                )
        self.configs()

    def configs(self) -> dict[str, Any]:
        """Return the configuration of every task and method, validated."""
        plugins = {**{n: TASKS[n].Config for n in self.tasks}, **{n: METHODS[n].Config for n in self.methods}}
        configs = {}
        for name, kind in plugins.items():
            base = name.partition("[")[0]
            configs[name] = make_config(base, kind, {**self.options.get(base, {}), **variant_options(name)})
        return configs

    def grounds(self) -> list[Grounds]:
        """Return what the cells stand on, in their order."""
        return list(dict.fromkeys(cell.grounds for cell in self.cells()))

    def cells(self) -> list[Cell]:
        """Return the cells, those of one problem together."""
        first = self.seeds[0]
        return [
            Cell(task, method, *(seed if kind in self.vary else first for kind in VARIED))
            for task in self.tasks
            for seed in self.seeds
            for method in self.methods
        ]


def read_plan(path: Path, plugins: list[str], data_dir: str | None = None) -> tuple[Plan, list[str]]:
    """Return the plan that ``run`` wrote to a ``run.json``, and the keys of its cells.

    Args:
        path: the file.
        plugins: those that the user named; the file cannot name any.
        data_dir: folder of data that the user named; the file cannot name one either.

    Raises:
        UserError: when it is anything else, or was run with other plugins or with a folder of data.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content["plan"], dict):
            raise TypeError("no plan in it")
        stored, keys = content["plan"], content["cells"]
        missing = [source for source in stored.get("plugins", []) if source not in plugins]
        if missing:
            raise UserError(
                f"expected the plugins of this run by name; {path} was made with {', '.join(map(repr, missing))}: "
                "give each with --plugin if you trust it"
            )
        plan = _with_data(Plan(**stored), data_dir)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"expected a folder that `run` wrote; {path}: {where}: {first['msg']}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (DamagedError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"expected a folder that `run` wrote; {type(error).__name__}: {error}") from error
    if plan.device == "auto":
        raise UserError(f"expected the device of the run in {path}; got 'auto': run it again")
    cells = plan.cells()
    if not isinstance(keys, list) or len(keys) != len(cells) or not all(is_key(key) for key in keys):
        raise UserError(f"expected the keys of {len(cells)} cells in {path}; got something else: run it again")
    return plan, keys


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
    bases = {name.partition("[")[0] for name in named}
    own = {name: {**plan.options.get(name, {}), "data_dir": data_dir} for name in bases}
    chosen = replace(plan, options={**plan.options, **own})
    kept = [name for name in named if chosen.configs()[name].data_dir != data_dir]
    if kept:
        raise UserError(f"expected no folder of data in the name of a variant; got {kept[0]!r}: run it again, without")
    return chosen


def git_commit() -> str | None:
    """Return the commit of the checkout this runs from, with ``-dirty`` where it was changed; None without one."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def select_device(name: str) -> str:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Raises:
        UserError: for anything else, or a GPU that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"expected --device auto, cpu, cuda or cuda:i; got {name!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"expected a CUDA device; torch sees {count} of them, so {name!r} is missing: use --device cpu")
    return name
