"""What a run is made of: a cell for each task, method and seeds, and the grounds that the cells of a problem share."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.seeds import Seeds
from ..plugins.configs import base_name


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
    def seeds(self) -> Seeds:
        """What its random streams are derived from."""
        return Seeds(self.task, self.base, self.data_seed, self.model_seed, self.fit_seed)

    @property
    def grounds(self) -> Grounds:
        """What the cell stands on."""
        return Grounds(self.task, self.data_seed, self.model_seed)


@dataclass(frozen=True)
class Grounds:
    """What the cells of one problem stand on: its model is trained, its controls are scored."""

    task: str
    data_seed: int
    model_seed: int

    @property
    def seed(self) -> str:
        """What the seeds are called, as for a cell."""
        return str(self.data_seed) if self.data_seed == self.model_seed else f"{self.data_seed}/{self.model_seed}"

    @property
    def seeds(self) -> tuple[int, int]:
        """Data seed and model seed."""
        return self.data_seed, self.model_seed


Piece = Cell | Grounds
"""One piece of a run."""
