"""What a task is: data, a trained model, and what is known about the right answer."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .gates import Gates
from .graphs import GraphBatch
from .method import NoConfig, Subject, untracked
from .model import GraphModel
from .output import Output
from .seeds import derive

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """One split: graphs, labels, and the gold mask where one is known.

    Args:
        graphs: G graphs with E edges.
        labels: one per unit of output.
        gold: bool ``(L, E)``, the messages that the model uses in every layer; or ``(1, E)`` where only their union
            over the layers is known. None without a gold standard.
    """

    graphs: GraphBatch
    labels: Tensor
    gold: Tensor | None = None

    def select(self, index: Tensor) -> Split:
        """Return the split of some graphs; there must be one label per graph or per node."""
        gold = None if self.gold is None else self.gold[:, self.graphs.edges_of(index)]
        labelled = index if len(self.labels) == self.graphs.num_graphs else self.graphs.nodes_of(index)
        return Split(self.graphs.select(index), self.labels[labelled], gold)

    def to(self, device: torch.device) -> Split:
        """Return the split on another device."""
        return Split(
            self.graphs.to(device), self.labels.to(device), None if self.gold is None else self.gold.to(device)
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained model with its data. Methods see only :attr:`subject`.

    Args:
        model: the trained model.
        output: what its output means.
        splits: ``train``, ``validation`` and ``test``.
        edge_types: names of the values of the edge attribute ``edge_type``.
        figures: what the task says about the model, in the order of its card: training, accuracy, the gold audit.
        gold_confirmed: whether the audit found that this model uses the gold messages and no others; None without gold.
    """

    model: GraphModel
    output: Output
    splits: dict[str, Split]
    edge_types: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    gold_confirmed: bool | None = None

    def subject(self) -> Subject:
        """Return what a method may see: no labels, no gold, no test graphs.

        Raises:
            UnsupportedModelError: when the model's messages cannot be gated.
        """
        train, validation = (self.splits[name].graphs for name in ("train", "validation"))
        with Gates(self.model) as gates:
            num_layers = gates.record(validation.select(torch.arange(1, device=validation.device))).num_layers
        return Subject(self.model, self.output, train, validation, num_layers)


@dataclass(frozen=True)
class TaskSeeds:
    """What a problem is built from."""

    data_seed: int
    model_seed: int


@dataclass(frozen=True)
class Workshop:
    """What a task needs to build its problem: the device, a cache of trained models, and progress bars.

    Args:
        device: where to train.
        cached: ``cached(model, train)`` returns the figures of ``train()``, which trains ``model``, or loads the model
            and the figures where the same training was done before.
        track: wraps a loop in a progress bar.
    """

    device: torch.device
    cached: Callable[[GraphModel, Callable[[], dict[str, float]]], dict[str, float]]
    track: Callable[..., Any] = untracked


def without_cache(model: GraphModel, train: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Train always."""
    return train()


class Task(ABC):
    """A task. Data depends on the data seed alone, the model on both seeds, and neither on the method.

    Subclasses set ``name`` and, where there are options, ``Config``.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]] = NoConfig
    #: Overrides with which the contract suite and the tests run quickly.
    quick: ClassVar[dict[str, Any]] = {}
    #: A name that several tasks share, under which options of all of them can be set.
    family: ClassVar[str] = ""
    #: The option that says how many test graphs are explained; `bench` sets it.
    size_option: ClassVar[str] = "test"

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return next(iter((cls.__doc__ or "").strip().splitlines()), "(no docstring)")

    def card(self) -> str:
        """Return the task's card in Markdown: what is known about its data, its models and its figures."""
        return inspect.getdoc(sys.modules[type(self).__module__]) or self.summary()

    def published(self) -> Mapping[str, Mapping[str, float]]:
        """Return published figures for this configuration: method -> metric -> value in [0, 1]."""
        return {}

    def sources(self) -> dict[str, str]:
        """Return checksums of the files that the data come from, by name; they decide the results as code does.

        Raises:
            UserError: when one is not there.
        """
        return {}

    @abstractmethod
    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Make the data and train the model.

        The harness calls it through :func:`build_problem`, with torch's global generator seeded from the task's name
        and both seeds: the model may be initialised from it, the data must not be drawn from it.
        """


def build_problem(task: Task, seeds: TaskSeeds, workshop: Workshop) -> Problem:
    """Build a task's problem; torch's global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[workshop.device] if workshop.device.type == "cuda" else []):
        torch.manual_seed(derive("model", task.name, seeds.data_seed, seeds.model_seed))
        return task.build(seeds, workshop)
