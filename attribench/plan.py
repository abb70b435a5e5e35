"""What a run consists of: tasks, methods, configurations, seeds and device."""

from __future__ import annotations

import dataclasses
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .registry import METHODS, TASKS
from .settings import Overrides, make_config, variant_options


@dataclass(frozen=True)
class Cell:
    """One task, method and set of seeds."""

    task: str
    method: str
    data_seed: int
    model_seed: int
    fit_seed: int

    @property
    def base(self) -> str:
        """The method's name without a variant's options: variants of a method share their random draws."""
        return self.method.partition("[")[0]

    @property
    def problem(self) -> tuple[str, int, int]:
        """What the problem is built from."""
        return self.task, self.data_seed, self.model_seed


@dataclass(frozen=True)
class Plan:
    """What a run consists of; ``run.json`` holds it, and ``score`` reads it from there.

    Args:
        tasks, methods: names.
        options: overrides of the plugins' defaults.
        seeds: each varies data, model and fit together.
        device: ``cpu`` or ``cuda[:i]``.
        threads: PyTorch threads, the same for every cell.
        randomised_graphs: test graphs on which every method also explains a model with shuffled weights (Adebayo et al.
            2018); 0 for none.
        plugins: files or modules that were imported.
    """

    tasks: list[str]
    methods: list[str]
    options: Overrides
    seeds: list[int]
    device: str
    threads: int = 1
    randomised_graphs: int = 100
    plugins: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
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

    def cells(self) -> list[Cell]:
        """Return the cells, those of one problem together."""
        return [Cell(t, m, s, s, s) for t in self.tasks for s in self.seeds for m in self.methods]


def git_commit() -> str | None:
    """Return the commit of the checkout this runs from, with ``-dirty`` where it was changed; None without one."""
    root = Path(__file__).resolve().parent.parent
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
