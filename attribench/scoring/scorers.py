"""What a scorer is: a function from what is known of one row to figures, registered with what it makes and needs.

How figures are called, meant and printed stands in :mod:`.figures`, which is not imported here: words decide no result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from ..base.errors import UserError
from .families import fits
from .passes import Asking, Masked
from .view import View

if TYPE_CHECKING:
    from .figures import Figure

Value: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Need:
    """What a scorer cannot do without.

    Args:
        text: in the glossary.
        met: says whether a row has it.
    """

    text: str
    met: Callable[[View], bool]


METHOD = Need("a method", lambda view: view.kind == "method")
GOLD = Need("gold", lambda view: view.gold is not None)
NO_GOLD = Need("no gold", lambda view: view.gold is None)
GOLD_OF_EVERY_LAYER = Need(
    "gold of every layer", lambda view: len(view.truth) == len(view.mask) if GOLD.met(view) else False
)
SEVERAL_LAYERS = Need("several layers", lambda view: len(view.mask) > 1)
THRESHOLD = Need("soft scores", lambda view: view.decision.choice is not None)
CLASSES = Need("predicted classes", lambda view: view.classes is not None)
RANDOMISED = Need("scores for shuffled weights", lambda view: view.randomised is not None)


@dataclass(frozen=True, eq=False)
class Made:
    """What a scorer made of a row.

    Args:
        figures: of the row.
        per_graph: columns ``(G,)``.
        layers: figures of every layer, from the first.
    """

    figures: Mapping[str, Value] = field(default_factory=dict)
    per_graph: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Value]] = ()


Result: TypeAlias = Made | Mapping[str, Value]
Function: TypeAlias = Callable[[View], Result | Asking[Made] | Asking[Mapping[str, Value]]]
F = TypeVar("F", bound=Function)
T = TypeVar("T")


@dataclass(frozen=True)
class Scorer:
    """A registered scorer.

    Args:
        function: makes the figures.
        names: of what it makes.
        needs: rows without one of them are left out.
        figures: what it says of its figures, where the catalogue says nothing.
    """

    function: Function
    names: tuple[str, ...]
    needs: tuple[Need, ...] = ()
    figures: tuple[Figure, ...] = ()

    def makes(self, name: str) -> bool:
        """Say whether this is a figure of the scorer's."""
        return any(fits(pattern, name) for pattern in self.names)

    def applies(self, view: View) -> bool:
        """Say whether a row has what the scorer needs."""
        return all(need.met(view) for need in self.needs)

    def __call__(self, view: View) -> Asking[Made]:
        """Return what the function makes of a row, asking for the passes that it asks for.

        Raises:
            ValueError: when it makes a figure that it does not list, or what can be neither stored nor compared.
        """
        found = self._unchanging(view, lambda: self.function(view))
        if isinstance(found, Generator):
            found = yield from self._asking(view, found)
        if not isinstance(found, Made | Mapping):
            raise ValueError(f"expected {self.function.__name__} to return figures by name; got {type(found).__name__}")
        made = found if isinstance(found, Made) else Made(found)
        who, shape = self.function.__name__, (view.graphs.num_graphs,)
        # Text is the harness's alone: whoever reads a folder need not have a stranger's scorer to know what is one.
        kinds = (int, float) if _rank(self)[0] else (int, float, str)
        for name, value in chain(made.figures.items(), *(layer.items() for layer in made.layers)):
            if value is not None and not isinstance(value, kinds):
                raise ValueError(f"expected a number for {name!r} of {who}; got {type(value).__name__}: use float()")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"expected a number of at most 64 bits for {name!r} of {who}")
        for name in made.figures:
            if not self.makes(name):
                listed = ", ".join(self.names)
                raise ValueError(f"expected {who} to make {listed}; got {name!r}: list it in @scorer")
        for name, column in made.per_graph.items():
            if np.shape(column) != shape or not isinstance(column, np.ndarray):
                raise ValueError(f"expected an array {shape} for {name!r} of {who}; got {np.shape(column)}")
        return made

    def _asking(self, view: View, function: Asking[Result]) -> Asking[Result]:
        """Hand on what the function asks for, and what is answered."""
        answer: list[Tensor] | None = None

        def step() -> tuple[Sequence[Masked] | None, Result]:
            try:
                return (next(function) if answer is None else function.send(answer)), {}
            except StopIteration as ended:
                return None, ended.value

        while True:
            asked, result = self._unchanging(view, step)
            if asked is None:
                return result
            if not (isinstance(asked, list | tuple) and all(isinstance(one, Masked) for one in asked)):
                raise ValueError(
                    f"expected {self.function.__name__} to ask for passes with 'yield [Masked(mask), ...]'; got "
                    f"{type(asked).__name__}"
                )
            answer = yield asked

    def _unchanging(self, view: View, act: Callable[[], T]) -> T:
        """Return what is made, of what is left as it is."""
        given = view.given()
        before = [tensor._version for tensor in given]
        found = act()
        if [tensor._version for tensor in given] != before:
            raise ValueError(
                f"expected {self.function.__name__} to leave what it is given as it is; it changes it: clone()"
            )
        return found


_SCORERS: dict[str, Scorer] = {}


def scorer(*figures: str | Figure, needs: Sequence[Need] = ()) -> Callable[[F], F]:
    """Register a function as a scorer (a decorator); it runs for every row, the methods' and the controls'.

    The function gets a :class:`View` and returns its figures by name, plain numbers or None, or :class:`Made` where it
    also has values per graph or layer. It runs without gradients and must be pure: it changes nothing in the view, and
    draws at random from seeds of :func:`.derive` alone.

    Outputs under other masks it asks for: ``outputs = yield [Masked(mask), Masked(other, view.baselines)]``. They are
    made together with what other scorers ask for: each part of the graphs is recorded once, and no pass is made twice.

    Args:
        figures: all that the function may make: a name, of which the catalogue in :mod:`.figures` says what it means,
            or a :class:`.Figure` that says it itself. ``{...}`` in a name stands for any text: ``f1_at_threshold_{t}``.
            ``x_layer_{k}`` is filled in from ``x`` of its layers, where there are several.
        needs: the function is called for rows alone that have them all.

    Raises:
        UserError: when another scorer makes one of these.
    """
    names = tuple(figure if isinstance(figure, str) else figure.name for figure in figures)
    described = tuple(figure for figure in figures if not isinstance(figure, str))

    def register(function: F) -> F:
        where = f"{function.__module__}.{function.__qualname__}"
        for other, registered in _SCORERS.items():
            twice = [x for x in names for y in registered.names if fits(y, x) or fits(x, y)]
            if other != where and twice:
                raise UserError(f"expected one scorer of {twice[0]!r}; got {other} and {where}: rename one of them")
        _SCORERS[where] = Scorer(function, names, tuple(needs), described)
        return function

    return register


def scorers() -> list[Scorer]:
    """Return all scorers, the harness's first; the order does not depend on who imported what first."""
    return [one for _, one in sorted(_SCORERS.items(), key=lambda item: _rank(item[1]))]


def scorer_modules() -> tuple[str, ...]:
    """Return the modules of scorers that are not the harness's: their code decides the scores, too."""
    return tuple(sorted({one.function.__module__ for one in _SCORERS.values() if _rank(one)[0]}))


def _rank(one: Scorer) -> tuple[bool, str]:
    module = one.function.__module__
    return module.rpartition(".")[0] != __name__.rpartition(".")[0], module
