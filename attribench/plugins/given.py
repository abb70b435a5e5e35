"""A given model: somebody's trained model and graphs as a task, for which nothing has to be registered.

It travels to worker processes as a file, by cloudpickle, which takes along classes that are defined in a notebook or a
script. Only files that the user names are read: unpickling runs code.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import cloudpickle
from pydantic import Field

from ..base.errors import UserError
from ..base.files import write_atomically
from .method import config
from .task import Problem, Task, TaskSeeds, Workshop

SUFFIX = ".given"
"""Of the files that a given model travels in."""

FOLDER = "given"
"""Of a results folder, with the files of its given models."""


@dataclass(frozen=True, eq=False)
class Given:
    """A problem that was given, not built.

    Args:
        name: what the task is called.
        problem: the trained model with its data.
        content: a hash of weights, code, graphs and labels.
        positions: of the explained graphs in the list that was given.
    """

    name: str
    problem: Problem
    content: str
    positions: tuple[int, ...]

    def save(self, folder: Path) -> Path:
        """Write it into a folder; return the file."""
        path = folder / f"{self.name}-{self.content}{SUFFIX}"
        write_atomically(path, lambda draft: _write(draft, cloudpickle.dumps(self)))
        return path

    @staticmethod
    def load(path: Path) -> Given:
        """Read what :meth:`save` wrote. It runs code: read only what you trust.

        Raises:
            UserError: when it is something else.
        """
        try:
            given = cloudpickle.loads(path.read_bytes())
        except Exception as error:  # whatever unpickling raises
            raise UserError(
                f"expected a given model; {path}: {type(error).__name__}: {error}: its classes must be importable here"
            ) from error
        if not isinstance(given, Given):
            raise UserError(f"expected a given model; {path} holds {type(given).__name__}")
        return given

    def task(self) -> type[GivenTask]:
        """Return the task that it is."""
        options = config(type("Config", (), {
            "__doc__": "What was given.",
            "__module__": __name__,
            "__annotations__": {"content": str},
            "content": Field(self.content, description="hash of weights, code, graphs and labels"),
        }))  # fmt: skip
        doc = f"A given model: {self.problem.model.called} on {len(self.positions)} graphs."
        return type(GivenTask.__name__, (GivenTask,), {
            "__doc__": doc, "__module__": __name__, "name": self.name, "Config": options, "given": self,
        })  # fmt: skip


class GivenTask(Task):
    """A given model on given graphs."""

    meanings = {"test": "the output's metric on the explained graphs, against the labels"}
    given: ClassVar[Given]

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Return a copy of what was given, whatever the seeds."""
        problem, device = self.given.problem, workshop.device
        splits = {name: split.to(device) for name, split in problem.splits.items()}
        whole = None if problem.whole is None else problem.whole.to(device)
        return replace(problem, model=deepcopy(problem.model).to(device), splits=splits, whole=whole)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
