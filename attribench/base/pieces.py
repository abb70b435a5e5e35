"""What a run is made of: cells, and the problems that they are of. Each names the random streams of its own."""

from __future__ import annotations

from dataclasses import dataclass

from .names import base_name
from .seeds import derive


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
        return base_name(self.method)

    @property
    def seed(self) -> str:
        """What the seeds are called: "3", or "0/0/3" (of data, model and fit) where they differ."""
        seeds = (self.data_seed, self.model_seed, self.fit_seed)
        return str(seeds[0]) if len(set(seeds)) == 1 else "/".join(map(str, seeds))

    @property
    def title(self) -> str:
        """What progress and warnings call it."""
        return f"{self.task} · {self.method} · seed {self.seed}"

    @property
    def problem(self) -> ProblemSpec:
        """What the method explains."""
        return ProblemSpec(self.task, self.data_seed, self.model_seed)

    @property
    def fit_stream(self) -> int:
        """Seed of the method's draws."""
        return derive("fit", self.base, self.data_seed, self.model_seed, self.fit_seed)

    @property
    def shuffled_stream(self) -> int:
        """Seed of the model with shuffled weights."""
        return derive("shuffled", self.task, self.data_seed, self.model_seed)

    @property
    def controls_stream(self) -> int:
        """Seed of the random masks that are matched to the method's."""
        return derive("controls", self.task, self.data_seed, self.model_seed, self.fit_seed)


@dataclass(frozen=True)
class ProblemSpec:
    """A task with the seeds of its data and model: its model is trained, and its controls are scored, once."""

    task: str
    data_seed: int
    model_seed: int

    @property
    def seed(self) -> str:
        """What the seeds are called, as for a cell."""
        return str(self.data_seed) if self.data_seed == self.model_seed else f"{self.data_seed}/{self.model_seed}"

    @property
    def title(self) -> str:
        """What progress and warnings call it."""
        return f"{self.task} · seed {self.seed}"

    @property
    def seeds(self) -> tuple[int, int]:
        """Data seed and model seed."""
        return self.data_seed, self.model_seed


Piece = Cell | ProblemSpec
"""One piece of a run."""
