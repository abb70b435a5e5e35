"""What a run consists of: tasks, methods, configurations, seeds and device."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, get_args

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from ..base.errors import UserError
from ..base.limits import MAX_EDGES
from ..base.names import base_name
from ..base.pieces import Cell, ProblemSpec
from ..plugins.configs import Overrides, make_config, variant_options
from ..plugins.registry import METHODS, TASKS
from .options import Graphs, MaxEdges, Threads, Varied

MOST_CELLS = 1_000_000
VARIED = get_args(Varied)


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Plan:
    """What a run consists of; ``run.json`` holds it, and ``score`` reads it from there.

    Args:
        tasks, methods: names.
        overrides: of the plugins' defaults.
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
    overrides: Overrides
    seeds: list[Annotated[int, Field(ge=0)]]
    device: str
    vary: list[str] = field(default_factory=lambda: list(VARIED))
    threads: Threads = 1
    max_edges: MaxEdges = MAX_EDGES
    randomised_graphs: Graphs = 100
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
        named = [base_name(name) for name in (*self.tasks, *self.methods)]
        both = {base_name(n) for n in self.tasks} & {base_name(n) for n in self.methods}
        if both:
            raise UserError(
                f"expected different names for methods and tasks; got {', '.join(both)} as both: rename one"
            )
        for name in self.overrides:
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
            base = base_name(name)
            configs[name] = make_config(base, kind, {**self.overrides.get(base, {}), **variant_options(name)})
        return configs

    def problems(self) -> list[ProblemSpec]:
        """Return what the cells explain, in their order."""
        return list(dict.fromkeys(cell.problem for cell in self.cells()))

    def cells(self) -> list[Cell]:
        """Return the cells, those of one problem together."""
        first = self.seeds[0]
        return [
            Cell(task, method, *(seed if kind in self.vary else first for kind in VARIED))
            for task in self.tasks
            for seed in self.seeds
            for method in self.methods
        ]


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
