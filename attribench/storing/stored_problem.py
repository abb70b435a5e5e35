"""A problem's validation and test graphs as they are stored: read, analysed and drawn without the task's code.

Training graphs are not among them: nothing is scored on them, and they are most of the data. Of what the model makes of
the graphs, the predictions are stored and not the logits, since what logits mean is code.

A folder may come from a stranger. Arrays are read by ``base.arrays`` and text from JSON, both of bounded size and with
checksums; what they say is validated, and what is wrong counts as not there. Texts are numbers into a table of distinct
ones: arrays of text are as wide as their longest, so that one long text and many short ones would fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..base.arrays import DamagedError, read_arrays, write_arrays
from ..base.errors import UserError, printable
from ..base.files import MAX_JSON_BYTES, digest, dump_checked, read_checked, say_damaged
from ..model.graphs import LEVELS, GraphBatch

SCHEMA = 1
"""Rises when what is stored changes; other files count as not there."""

SPLITS = ("validation", "test")
"""Those that are stored."""

MAX_NODES = 2**28
"""Of a split: nodes need not have anything stored, so that the bytes of a file do not bound their number."""

_ARRAYS, _TEXTS = "splits.safetensors", "splits.json"
_NAME = re.compile(r"[^\W\d]\w{0,63}", re.ASCII)
_WHOLE = ("edge_index", "node_ptr", "edge_ptr", "graph_key", "edge_key", "edge_type", "targets")
_OF_A_CELL = ("method", "method_config", "method_code", "method_data", "fit_seed", "randomised_graphs")

Text = Annotated[str, AfterValidator(printable)]
Names = tuple[Text, ...]
Column = np.ndarray | Names


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class StoredSplit(_Frozen):
    """One split: G graphs with N nodes and E edges in all; integers are int64.

    Args:
        node_ptr, edge_ptr: ``(G + 1,)``, first node and first edge of every graph, then N and E.
        edge_index: ``(2, E)``, source and target of every edge, numbered over the split.
        graph_key: ``(G,)``, an identity that a graph has in every batch.
        edge_key: ``(E,)``, an identity of every edge within its graph.
        edge_type: ``(E,)``, numbers of :attr:`StoredProblem.edge_types`; None where edges have no type.
        gold: bool ``(L, E)``, or ``(1, E)`` where only the union over the layers is known; None where there is none.
        labels: ``(G, ...)`` or ``(N, ...)``, by :attr:`StoredProblem.level`.
        predictions: what the model predicts, as many.
        targets: ``(G, 1)`` the node, or ``(G, 2)`` the pair of nodes, that a graph's prediction is about, numbered
            within the graph; None where it is about the graph or each of its nodes.
        pos: ``(N, 1 to 3)``, positions of nodes; None where they have none.
        node, edge, graph: the task's extras, numbers ``(N, ...)`` or N texts, and so for E and G. Of nodes, ``name``
            and ``group`` are texts, for pictures.
    """

    node_ptr: np.ndarray
    edge_ptr: np.ndarray
    edge_index: np.ndarray
    graph_key: np.ndarray
    edge_key: np.ndarray
    edge_type: np.ndarray | None = None
    gold: np.ndarray | None = None
    labels: np.ndarray
    predictions: np.ndarray
    targets: np.ndarray | None = None
    pos: np.ndarray | None = None
    node: dict[str, Column] = {}
    edge: dict[str, Column] = {}
    graph: dict[str, Column] = {}

    @property
    def num_nodes(self) -> int:
        """N."""
        return int(self.node_ptr[-1])

    @property
    def num_edges(self) -> int:
        """E."""
        return len(self.edge_key)

    @property
    def num_graphs(self) -> int:
        """G."""
        return len(self.graph_key)

    def count(self, level: str) -> int:
        """Return how many nodes, edges or graphs there are."""
        return {"node": self.num_nodes, "edge": self.num_edges, "graph": self.num_graphs}[level]

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield all arrays by where they are: ``gold``, or ``node/name`` of an extra."""
        for part, value in self:
            columns = {f"{part}/{name}": column for name, column in value.items()} if part in LEVELS else {part: value}
            yield from ((place, x) for place, x in columns.items() if isinstance(x, np.ndarray))

    @model_validator(mode="after")
    def _check(self) -> StoredSplit:
        if any(x.dtype != np.int64 for part, x in self.arrays() if part in _WHOLE):
            raise ValueError("expected whole numbers")
        if any(x.dtype.kind not in "bif" for _, x in self.arrays()):
            raise ValueError("expected truth values, whole or floating-point numbers")
        if self.node_ptr.ndim != 1 or not len(self.node_ptr) or not 0 <= self.num_nodes <= MAX_NODES:
            raise ValueError(f"expected at most {MAX_NODES} nodes")
        try:
            GraphBatch(
                torch.from_numpy(self.edge_index),
                torch.from_numpy(self.node_ptr),
                torch.from_numpy(self.edge_ptr),
                torch.from_numpy(self.graph_key),
                torch.from_numpy(self.edge_key),
            )
        except UserError as error:
            raise ValueError(str(error)) from None
        edges = self.num_edges
        if self.edge_type is not None and (self.edge_type.shape != (edges,) or (self.edge_type < 0).any()):
            raise ValueError("expected a type, from 0, for every edge")
        if self.gold is not None and not (
            self.gold.dtype == np.bool_ and self.gold.ndim == 2 and self.gold.shape[1] == edges
        ):
            raise ValueError("expected gold of shape (L, E)")
        if self.pos is not None and not (
            self.pos.ndim == 2 and len(self.pos) == self.num_nodes and 1 <= self.pos.shape[1] <= 3
        ):
            raise ValueError("expected positions of shape (N, 1 to 3)")
        if self.targets is not None:
            sizes = np.diff(self.node_ptr)[:, None]
            if self.targets.shape not in ((len(sizes), 1), (len(sizes), 2)):
                raise ValueError("expected targets of shape (G, 1) or (G, 2)")
            if ((self.targets < 0) | (self.targets >= sizes)).any():
                raise ValueError("expected targets among the nodes of their graphs")
        for level in LEVELS:
            for name, column in getattr(self, level).items():
                if not _NAME.fullmatch(name):
                    raise ValueError(f"expected extras with the names of Python identifiers; got {name!r}")
                if np.ndim(column) == 0 or len(column) != self.count(level):
                    raise ValueError(f"expected {self.count(level)} values of {name!r}, one per {level}")
        if any(isinstance(self.node.get(name), np.ndarray) for name in ("name", "group")):
            raise ValueError("expected texts as 'name' and 'group' of nodes; got numbers")
        return self


class StoredProblem(_Frozen):
    """What is stored of a problem.

    Args:
        task, data_seed, model_seed: what it is.
        level: what there is one label and one prediction for.
        layers: names of the L layers' modules, in the order in which they run.
        edge_types: names of the edges' types; empty where they have none.
        class_names: names of the classes; empty where the task gives none. A label may be one more than the last: a
            class that the model does not know.
        splits: ``validation`` and ``test``.
    """

    task: Text
    data_seed: int
    model_seed: int
    level: Literal["graph", "node"]
    layers: Annotated[Names, Field(min_length=1)]
    edge_types: Names
    class_names: Names
    splits: dict[str, StoredSplit]

    @model_validator(mode="after")
    def _check(self) -> StoredProblem:
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"expected splits {', '.join(SPLITS)}")
        for split in self.splits.values():
            if split.gold is not None and len(split.gold) not in (1, len(self.layers)):
                raise ValueError("expected gold of every layer, or of their union")
            if self.edge_types and split.edge_type is not None and (split.edge_type >= len(self.edge_types)).any():
                raise ValueError("expected a name for every type of edge")
            for values in (split.labels, split.predictions):
                if values.ndim == 0 or len(values) != split.count(self.level):
                    raise ValueError(f"expected a label and a prediction per {self.level}")
                numbered = self.class_names and values.dtype.kind == "i"
                if numbered and ((values < 0) | (values > len(self.class_names))).any():
                    raise ValueError("expected a name for every class")
        return self

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there and empty.

        Raises:
            UserError: when its texts are too large to be read again.
        """
        arrays, texts = dict[str, np.ndarray](), dict[str, list[str]]()
        for name, split in self.splits.items():
            arrays |= {f"{name}/{place}": _narrow(array) for place, array in split.arrays()}
            for level, extra, column in ((k, n, x) for k in LEVELS for n, x in getattr(split, k).items()):
                if not isinstance(column, np.ndarray):
                    numbers = {text: i for i, text in enumerate(dict.fromkeys(column))}
                    place = f"{name}/{level}/{extra}"
                    texts[place] = list(numbers)
                    arrays[place] = _narrow(np.array([numbers[text] for text in column], dtype=np.int64))
        checksum = write_arrays(folder / _ARRAYS, arrays)
        about = self.model_dump(mode="json", exclude={"splits"})
        dump_checked(folder / _TEXTS, {"schema": SCHEMA, "checksum": checksum, "about": about, "texts": texts})
        if (folder / _TEXTS).stat().st_size > MAX_JSON_BYTES:
            raise UserError(
                f"expected names and texts of at most {MAX_JSON_BYTES} bytes in all; {self.task} has more: shorten the "
                "extras of its splits"
            )

    @staticmethod
    def load(folder: Path) -> StoredProblem | None:
        """Read it from a folder; None where there is nothing, or it is damaged or of another schema."""
        content = read_checked(folder / _TEXTS)
        if content is None:
            return None
        try:
            if content["schema"] != SCHEMA:
                return None
            arrays, texts = read_arrays(folder / _ARRAYS, content["checksum"]), content["texts"]
            if not texts.keys() <= arrays.keys():
                raise ValueError("expected the numbers of every text")
            splits: dict[str, dict[str, Any]] = {name: {level: {} for level in LEVELS} for name in SPLITS}
            for place, array in arrays.items():
                name, part, *extra = place.split("/")
                wide: Any = array.astype(np.int64) if array.dtype.kind in "iu" else array
                if len(extra) == 1:
                    splits[name][part][extra[0]] = _texts(texts[place], wide) if place in texts else wide
                elif not extra and part not in LEVELS:
                    splits[name][part] = wide
                else:
                    raise ValueError("expected arrays called SPLIT/NAME or SPLIT/LEVEL/NAME")
            return StoredProblem.model_validate({**content["about"], "splits": splits})
        except (DamagedError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            say_damaged(folder / (_ARRAYS if isinstance(error, DamagedError) else _TEXTS))
            return None


def problem_key(content: Mapping[str, Any]) -> str:
    """Return the key of a cell's problem, from the ``content`` of the cell's record."""
    return "problem-" + digest({name: value for name, value in content.items() if name not in _OF_A_CELL})


def _narrow(array: np.ndarray) -> np.ndarray:
    """Return whole numbers in the smallest type that holds them: most are below 256."""
    if array.dtype.kind != "i" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(np.min_scalar_type(high if low >= 0 else min(low, -high - 1)))


def _texts(table: Any, numbers: np.ndarray) -> Names:
    if not isinstance(table, list) or numbers.ndim != 1 or (numbers < 0).any():
        raise ValueError("expected the numbers of texts")
    return tuple(table[i] for i in numbers.tolist())
