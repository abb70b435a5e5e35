"""What a run is made of: cells, and the problems that they are of. Each names the random streams of its own."""

from __future__ import annotations

from collections.abc import Iterable
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
    def seeds(self) -> dict[str, int]:
        """The seeds, by what each is of."""
        return {"data": self.data_seed, "model": self.model_seed, "fit": self.fit_seed}

    @property
    def seed(self) -> str:
        """What the seeds are called: "3", or "0/0/3" (of data, model and fit) where they differ."""
        seeds = tuple(self.seeds.values())
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


def varied(cells: Iterable[Cell]) -> list[str]:
    """Return which seeds differ between cells, of ``data``, ``model`` and ``fit``: what a mean over them is over."""
    return [kind for kind, values in _values(cells).items() if len(set(values)) > 1]


def vary_alike(cells: Iterable[Cell]) -> bool:
    """Return whether every kind of seed is another one in all cells or the same in all, so that they have a mean.

    Five fits of one model beside four new models have none: its spread would be neither that of fits nor of models.
    """
    return all(len(set(values)) in (1, len(values)) for values in _values(cells).values())


def _values(cells: Iterable[Cell]) -> dict[str, list[int]]:
    """Return the seeds of each kind, of all sets of seeds that cells have."""
    found = {tuple(cell.seeds.items()) for cell in cells}
    return {kind: [dict(seeds)[kind] for seeds in found] for kind in dict(next(iter(found), ()))}
