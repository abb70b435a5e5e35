"""What a task is: data, a trained model, and what is known about the right answer."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.limits import MAX_EDGES
from ..base.reading import files_read, refuse_undeclared
from ..base.seeds import derive
from ..examining.examination import Findings, examine
from ..examining.outputs import fitted_output
from ..examining.splits import SPLITS as SPLITS
from ..model.gates import Gates
from ..model.graphs import GraphBatch
from ..model.integrity import data_digest
from ..model.model import GraphModel
from ..model.output import Output
from .method import NoConfig, Subject, untracked


@dataclass(frozen=True, eq=False)
class Extras:
    """What a task knows of a split beyond what its model reads: it is stored, to be analysed and drawn.

    Nothing is trained, attributed or scored by it. Each value is a tensor of numbers with first dimension N, E or G, or
    a sequence of as many texts. Of nodes, the texts ``name`` say what a node is called in a picture, a word, and
    ``group`` its part in the task, by which it is coloured.

    Args:
        node, edge, graph: by names that are Python identifiers.
    """

    node: Mapping[str, Tensor | Sequence[str]] = field(default_factory=dict)
    edge: Mapping[str, Tensor | Sequence[str]] = field(default_factory=dict)
    graph: Mapping[str, Tensor | Sequence[str]] = field(default_factory=dict)

    def select(self, graphs: GraphBatch, index: Tensor) -> Extras:
        """Return those of some of the ``graphs``, as :meth:`GraphBatch.select` does."""
        places = {"node": graphs.nodes_of(index), "edge": graphs.edges_of(index), "graph": index}
        return Extras(
            **{level: {n: _at(x, where) for n, x in getattr(self, level).items()} for level, where in places.items()}
        )


def _at(values: Tensor | Sequence[str], where: Tensor) -> Tensor | Sequence[str]:
    return values[where.to(values.device)] if isinstance(values, Tensor) else [values[i] for i in where.tolist()]


@dataclass(frozen=True, eq=False)
class Split:
    """One split: graphs, labels, and the gold mask where one is known.

    Args:
        graphs: G graphs with E edges.
        labels: one per unit of output.
        gold: bool ``(L, E)``, the messages that the model uses in every layer; or ``(1, E)`` where only their union
            over the layers is known. None without a gold standard.
        extras: what else is known of it; of validation and test it is stored.
    """

    graphs: GraphBatch
    labels: Tensor
    gold: Tensor | None = None
    extras: Extras = field(default_factory=Extras)

    def select(self, index: Tensor) -> Split:
        """Return the split of some graphs; there must be one label per graph or per node."""
        gold = None if self.gold is None else self.gold[:, self.graphs.edges_of(index)]
        labelled = index if len(self.labels) == self.graphs.num_graphs else self.graphs.nodes_of(index)
        return Split(self.graphs.select(index), self.labels[labelled], gold, self.extras.select(self.graphs, index))

    def sample(self, count: int, draw: torch.Generator) -> Split:
        """Return ``count`` of the graphs at random, in their order; all where there are no more."""
        order = torch.randperm(self.graphs.num_graphs, generator=draw)
        return self.select(order[:count].sort().values.to(self.graphs.device))

    def to(self, device: torch.device) -> Split:
        """Return the split on another device; extras stay where they are."""
        gold = None if self.gold is None else self.gold.to(device)
        return Split(self.graphs.to(device), self.labels.to(device), gold, self.extras)


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
        whole: the graph as a whole, where the splits hold neighbourhoods of its nodes.
        known: what examining it has found, where that is known already.
        class_names: names of the classes, in their order; empty where there are none.
    """

    model: GraphModel
    output: Output
    splits: dict[str, Split]
    edge_types: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    gold_confirmed: bool | None = None
    whole: GraphBatch | None = None
    known: Findings | None = None
    class_names: tuple[str, ...] = ()

    @cached_property
    def findings(self) -> Findings:
        """What examining the problem finds, at the first look.

        Raises:
            UserError: when it is not what the harness takes it for; see :func:`.examine`.
        """
        return self.known or examine(self, MAX_EDGES)

    def data(self) -> str:
        """Return a hash of graphs and labels."""
        return data_digest((self.splits[name].graphs, self.splits[name].labels) for name in SPLITS)

    def subject(self) -> Subject:
        """Return what a method may see: no labels, no gold, no test graphs.

        Raises:
            UserError: as for :attr:`findings`.
        """
        train, validation = (self.splits[name].graphs for name in ("train", "validation"))
        found = self.findings
        return Subject(
            self.model, self.output, train, validation, found.num_layers, MAX_EDGES, found.replay,
            tuple(found.without_gradient),
        )  # fmt: skip

    def gates(self) -> Gates:
        """Return the gates of the model (a context manager)."""
        return Gates(self.model, replay=self.findings.replay)


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


def findings_of_study(study: str, beside: Path, **about: Any) -> str:
    """Return what a study has found, for a card whose template is in the folder ``beside``.

    See :func:`~attribench.telling.cards.render_card`. Telling is not deciding: the module is loaded by name, so that
    its code is no part of a result's key.
    """
    text: str = import_module("attribench.telling.cards").render_card(study, beside, **about)
    return text


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
    #: What the figures of its problems mean, by name, for the glossary of the tables.
    meanings: ClassVar[Mapping[str, str]] = {}

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

    def forms(self, model: GraphModel) -> Mapping[str, GraphModel]:
        """Return a model of :meth:`build` and the same in other forms, by what each is called, for ``bench``."""
        return {}

    def example(self, problem: Problem, num_nodes: int) -> GraphBatch | None:
        """Return one graph of so many nodes that a problem's model takes, for ``bench``; None where sizes are given."""
        return None

    def sources(self) -> dict[str, Path]:
        """Return the files that :meth:`build` reads, by name; what is in them decides the results as code does.

        A file that is read and not returned here is refused. What C++ opens is not seen: declare it all the same.

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
    """Build a task's problem; torch's global generator is as before afterwards.

    Raises:
        UserError: when it is none, or its graphs cannot be.
    """
    with torch.random.fork_rng(devices=[workshop.device] if workshop.device.type == "cuda" else []):
        torch.manual_seed(derive("model", task.name, seeds.data_seed, seeds.model_seed))
        with files_read() as read:
            problem = task.build(seeds, workshop)
    if read:
        refuse_undeclared(task.name, read, task.sources())
    if not isinstance(problem, Problem):
        raise UserError(f"{task.name}: expected build() to return a Problem; got {type(problem).__name__}: return one")
    if not isinstance(problem.output, Output):
        got = getattr(problem.output, "__name__", type(problem.output).__name__)
        raise UserError(f"{task.name}: expected an output such as GraphClassification(); got {got}: call it")
    return replace(problem, output=fitted_output(problem, MAX_EDGES))
