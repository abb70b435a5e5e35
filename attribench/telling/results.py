"""A results folder in Python: its tables as data frames, and the attributions of every graph. No code of its is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.explain import Explanation

from ..base.arrays import DamagedError
from ..base.errors import UserError
from ..storing.cells import CellStore
from ..storing.records import Record
from ..storing.runs import NAME, read_entries
from ..storing.stored_problem import StoredProblem, problem_key
from .tables import KEYS, Report


@dataclass(frozen=True, eq=False)
class Explained:
    """What a method says of one graph with N nodes and E edges, in L layers.

    Args:
        position: of the graph in its split, or in the list that was given to be explained.
        edge_index: ``(2, E)``, numbered within the graph.
        scores: ``(L, E)``; larger means that the message matters more.
        mask: bool ``(L, E)``, the messages that count as retained; None where no threshold could be chosen.
        gold: bool ``(L, E)`` or ``(1, E)``, the messages that the model uses; None where that is not known.
        label, prediction: of the graph, or of its nodes.
        num_nodes: N.
    """

    position: int
    edge_index: Tensor
    scores: Tensor
    mask: Tensor | None
    gold: Tensor | None
    label: Any
    prediction: Any
    num_nodes: int

    def to_pyg(self, **attributes: Any) -> Explanation:
        """Return PyG's ``Explanation``: ``edge_mask`` ``(E,)`` is an edge's largest score over the layers.

        ``edge_mask_of_layers`` ``(E, L)`` has all of them, ``retained`` bool ``(E, L)`` the mask where there is one.

        Args:
            **attributes: further ones of the explanation, such as ``x``.
        """
        more = {} if self.mask is None else {"retained": self.mask.T.contiguous()}
        return Explanation(
            edge_index=self.edge_index,
            edge_mask=self.scores.amax(0),
            edge_mask_of_layers=self.scores.T.contiguous(),
            prediction=torch.as_tensor(self.prediction),
            num_nodes=self.num_nodes,
            **more,
            **attributes,
        )


@dataclass(frozen=True)
class StoredCell:
    """A cell of a folder: which it is, the key that it is stored under, and its record."""

    task: str
    method: str
    data_seed: int
    model_seed: int
    fit_seed: int
    key: str
    record: Record


@dataclass
class Ending:
    """How a command ended.

    Args:
        report: the tables of the folder.
        well: whether every cell of the command is ok, partial or skipped.
        refused: tasks whose problem is not what the harness takes it for, with the reason.
        left_out: cells of the folder that its tables do not speak of, by why.
        done, planned: cells of the command; fewer are done after Ctrl-C.
        seconds: that the command took: ``there``, for work, of all processes; ``worked``, of building, explaining and
            scoring; ``tables``, until these were written.
    """

    report: Report
    well: bool
    refused: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict)
    done: int = 0
    planned: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


class Results:
    """A results folder.

    Args:
        folder: that ``run`` wrote.
        ending: how the command ended that has just written it.

    Raises:
        UserError: when it is none.
    """

    def __init__(self, folder: Path | str, ending: Ending | None = None) -> None:
        if not isinstance(folder, str | PathLike):
            raise UserError(f"expected the path of a folder that `run` wrote; got {folder!r}")
        self.folder = Path(folder)
        self.ending = ending
        try:
            self._entries = read_entries(self.folder / NAME)
        except DamagedError as error:
            raise UserError(f"expected a folder that `run` wrote; {error}") from error
        self._store = CellStore(self.folder)

    def __repr__(self) -> str:
        cells = self.cells
        methods = ", ".join(dict.fromkeys(cell.method for cell in cells))
        what = f"{len(cells)} cells of {', '.join(self.task_names)}; methods {methods}"
        return f"{type(self).__name__}({str(self.folder)!r}: {what})"

    # Tables: see the glossary in ``figures`` for what their columns mean.

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """One row per task and method: means, deviations and intervals over seeds."""
        return self._table("comparison")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per cell and control."""
        return self._table("scores")

    @cached_property
    def per_graph(self) -> pd.DataFrame:
        """One row per cell or control and test graph."""
        return self._table("per_graph")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per cell or control and layer."""
        return self._table("layers")

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row per trained model."""
        return self._table("tasks")

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per cell: seconds, passes, memory."""
        return self._table("costs")

    @cached_property
    def figures(self) -> pd.DataFrame:
        """The glossary of the other tables' columns."""
        return self._table("figures")

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise UserError(f"expected the tables of a run; {path}: {error}: run its command again") from error

    # Attributions.

    @cached_property
    def cells(self) -> list[StoredCell]:
        """The cells that the tables speak of: of equal ones those of the last run."""
        keys = dict.fromkeys(key for entry in reversed(self._entries) for key in entry.keys)
        told = set(self.scores[KEYS].itertuples(index=False, name=None))
        found: dict[tuple[Any, ...], StoredCell] = {}
        for key in keys:
            record = self._store.record(key)
            if record is not None:
                identity = _identity(record)
                found.setdefault(tuple(identity.values()), StoredCell(**identity, key=key, record=record))
        return [cell for place, cell in found.items() if place in told]

    @property
    def task_names(self) -> list[str]:
        """The tasks of the folder."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def reasons(self) -> dict[str, str]:
        """Why a method has no attributions, or not all: by the method's name."""
        return {cell.method: f"{cell.record.status}: {cell.record.reason}" for cell in self.cells if cell.record.reason}

    def cell(self, method: str, task: str | None = None, **seeds: int) -> StoredCell:
        """Return the cell of a method.

        Args:
            method: its name.
            task: its task; it may be left out where the folder has one.
            **seeds: ``data_seed``, ``model_seed``, ``fit_seed``; without them the first there is.

        Raises:
            UserError: when there is none, with what there is.
        """
        mine = [cell for cell in self.cells if cell.method == method and task in (None, cell.task)]
        tasks = list(dict.fromkeys(cell.task for cell in mine))
        if len(tasks) > 1:
            raise UserError(f"expected the name of a task, of {', '.join(tasks)}; got none: say task=")
        fits = [cell for cell in mine if all(getattr(cell, name, None) == seed for name, seed in seeds.items())]
        if not fits:
            there = ", ".join(dict.fromkeys(f"{cell.task} · {cell.method}" for cell in self.cells))
            wanted = [*([task] if task else []), method, *(f"{name} {seed}" for name, seed in seeds.items())]
            raise UserError(f"expected a cell among {there}; got {' · '.join(wanted)}")
        return fits[0]

    def problem(self, cell: StoredCell) -> StoredProblem:
        """Return the graphs that a cell explains, with labels, predictions and gold.

        Raises:
            UserError: when they are not there.
        """
        stored = self._store.problem(problem_key(cell.record.content))
        if stored is None:
            raise UserError(f"expected the graphs of {cell.task} in {self.folder}; they are not there: run it again")
        return stored

    def explanations(self, method: str, task: str | None = None, **seeds: int) -> list[Explained]:
        """Return what a method says of every test graph that it finished, in their order.

        Args:
            method, task, seeds: as for :meth:`cell`.

        Raises:
            UserError: when there are none, with the reason.
        """
        cell = self.cell(method, task, **seeds)
        if not cell.record.attributions:
            raise UserError(f"expected attributions of {method}; it is {cell.record.status}: {cell.record.reason}")
        try:
            attribution = self._store.attributions(cell.key, cell.record, torch.device("cpu"))["test"]
        except (DamagedError, KeyError) as error:
            raise UserError(f"expected attributions of {method}; {error}: run it again") from error
        scored = self._store.scores(cell.key)
        rows = [row for row in scored.rows if row.method == method] if scored else []
        mask = None if not rows or rows[0].mask is None else torch.from_numpy(rows[0].mask)
        return list(_explained(self.problem(cell), attribution.scores, mask, attribution.complete))


def _explained(
    problem: StoredProblem, scores: Tensor, mask: Tensor | None, complete: Tensor | None
) -> Iterator[Explained]:
    split = problem.splits["test"]
    positions = split.graph.get("position", np.arange(split.num_graphs))
    labels = split.node_ptr if problem.level == "node" else np.arange(split.num_graphs + 1)
    scored = 0  # edges of the mask, which is over finished graphs alone
    for i in range(split.num_graphs):
        edges = slice(int(split.edge_ptr[i]), int(split.edge_ptr[i + 1]))
        if complete is not None and not bool(complete[i]):
            continue
        size = edges.stop - edges.start
        own = slice(int(labels[i]), int(labels[i + 1]))
        label, prediction = (x[own] if problem.level == "node" else x[i] for x in (split.labels, split.predictions))
        yield Explained(
            position=int(positions[i]),
            edge_index=torch.from_numpy(split.edge_index[:, edges] - split.node_ptr[i]),
            scores=scores[:, edges],
            mask=None if mask is None else mask[:, scored : scored + size],
            gold=None if split.gold is None else torch.from_numpy(split.gold[:, edges]),
            label=label,
            prediction=prediction,
            num_nodes=int(split.node_ptr[i + 1] - split.node_ptr[i]),
        )
        scored += size


def _identity(record: Record) -> dict[str, Any]:
    content: Mapping[str, Any] = record.content
    return {name: content.get(name, "" if name in ("task", "method") else 0) for name in KEYS}
