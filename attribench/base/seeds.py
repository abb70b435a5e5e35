"""Seeds by name: every random stream is derived by hashing the names of what it is for."""

import hashlib
from dataclasses import dataclass

import torch


def derive(*parts: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``parts``; equal parts give equal seeds on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator seeded by :func:`derive` from ``parts``."""
    return torch.Generator(device=device).manual_seed(derive(*parts))


@dataclass(frozen=True)
class Seeds:
    """What the random streams of a cell are derived from.

    Args:
        task: its name.
        method: its name without a variant's options: variants of a method share their draws.
        data_seed, model_seed, fit_seed: numbers.
    """

    task: str
    method: str
    data_seed: int
    model_seed: int
    fit_seed: int

    @property
    def fit(self) -> int:
        """Seed of the method."""
        return derive("fit", self.method, self.data_seed, self.model_seed, self.fit_seed)

    @property
    def shuffled(self) -> int:
        """Seed of the model with shuffled weights."""
        return derive("shuffled", self.task, self.data_seed, self.model_seed)

    @property
    def controls(self) -> int:
        """Seed of the random masks that are matched to the method's."""
        return derive("controls", self.task, self.data_seed, self.model_seed, self.fit_seed)
