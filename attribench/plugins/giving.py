"""How the problem of explaining a trained model is made of it and of graphs: splits, labels, a hash of all of it."""

from __future__ import annotations

import hashlib
import logging
import secrets
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.data.data import BaseData

from ..base.closure import code_digest
from ..base.errors import UserError, first_line
from ..base.limits import MAX_EDGES
from ..model.called import adapted, attributes_of, on_cpu
from ..model.graphs import GraphBatch
from ..model.integrity import evaluating, graphs_digest, model_digest, tensor_digest
from ..model.model import GraphModel
from ..model.output import GraphClassification, NodeClassification, Output
from .given import Given
from .task import Extras, Problem, Split

logger = logging.getLogger(__name__)

SHARES = (0.6, 0.2)
"""Of a list of graphs: those to fit on, and those on which thresholds are chosen; the rest is explained."""

_LIBRARIES = ("torch", "torch_geometric")
"""Their versions are part of every key."""


def give(
    model: nn.Module,
    graphs: Iterable[Data],
    fit: Iterable[Data] | None = None,
    labels: Sequence[Any] | Tensor | None = None,
    output: Output | None = None,
    arguments: Sequence[str] | None = None,
    name: str = "own-model",
    whole: GraphBatch | None = None,
) -> Given:
    """Return the problem of explaining a trained model.

    Args:
        model: a PyG model, called as ``forward(data)`` or ``forward(x, edge_index[, edge_attr | edge_weight][,
            batch])``, or a :class:`.GraphModel`. It is copied.
        graphs: what to explain.
        fit: graphs to fit on and to choose thresholds on, three quarters and one; without them the list is split
            60/20/20 by a hash of each graph, and the last part is explained.
        labels: one for each of ``graphs``, beside which those of ``fit`` are predictions; without them ``y``, where
            every graph of both has one that fits the output, and the model's own predictions otherwise.
        output: what the model's output means; without it, rows of logits ``(G, C)``, C of at least two.
        arguments: what the model is called with, where its ``forward`` does not name attributes of the graphs.
        name: what the task is called in tables.
        whole: the graph whose nodes' neighbourhoods the graphs are; their nodes ``target`` are explained.

    Raises:
        UserError: when it cannot be told how the model is called, what it returns, or there are too few graphs.
    """
    if not isinstance(name, str):
        raise UserError(f"expected a name as text; got {name!r}")
    lists = [_listed(graphs), [] if fit is None else _listed(fit)]
    explained, fitted = on_cpu(lists[0]), None if fit is None else on_cpu(lists[1])
    shared = [*explained, *(fitted or [])]
    there = attributes_of(shared)
    if whole is not None:  # whose own attributes are its nodes' or edges', whatever they look like in small graphs
        there = {"node": [name for name in whole.node if name != "node_id"], "edge": list(whole.edge), "graph": []}
    taken, levels = adapted(copy_of(model), there, arguments)
    taken.eval()
    if whole is not None:
        levels = {**levels, "node": [*levels["node"], "node_id"], "graph": ["target"]}
    parts = _split(explained, fitted)
    batches = {
        split: GraphBatch.from_data_list([found[i] for i in index], **levels, name=split)
        for split, (found, index) in parts.items()
    }
    outputs = {split: outputs_of(taken, batch) for split, batch in batches.items()}
    meaning = output or (NodeClassification() if whole is not None else _output_of(outputs["test"], batches["test"]))
    for split, batch in batches.items():
        if (reason := meaning.check_logits(outputs[split], batch)) is not None:
            raise UserError(f"split {split!r}: {reason}")
    told = None if labels is None else _tensor(labels)
    if told is not None and (not told.dim() or len(told) != len(explained)):
        raise UserError(
            f"expected one label for each of {len(explained)} graphs; got {len(told) if told.dim() else told}"
        )
    predicted = {split: _predicted(meaning, outputs[split], batch) for split, batch in batches.items()}
    own = {split: _own([found[i] for i in index], predicted[split]) for split, (found, index) in parts.items()}
    # One kind of label for all splits: a threshold is chosen by the metric that is reported.
    labels_of = {split: y for split, y in own.items() if y is not None}
    if len(labels_of) < len(parts):
        if told is None and any(data.get("y") is not None for data in shared):
            logger.warning("not all graphs' y are labels of such an output: the model's own predictions are the labels")
        labels_of = predicted
    if told is not None:
        labels_of = {
            split: told[index] if found is explained else predicted[split] for split, (found, index) in parts.items()
        }
    splits = {split: Split(batch, labels_of[split]) for split, batch in batches.items()}
    test = splits["test"] = replace(splits["test"], extras=Extras(graph={"position": torch.tensor(parts["test"][1])}))
    metric = meaning.metric(outputs["test"], test.labels, test.graphs)
    problem = Problem(taken, meaning, splits, figures={"test": metric}, whole=whole)
    # What it says tells models apart that differ in what no hash of their parts sees: functions, lists, globals.
    said = [tensor_digest(outputs[split]) for split in parts]
    what = [_code_of(taken, meaning), model_digest(taken), problem.data(), _plain_values(meaning), *said]
    what += [] if whole is None else [graphs_digest(whole)]
    content = hashlib.sha256("\x1f".join(what).encode()).hexdigest()[:32]
    return Given(name, problem, content, tuple(parts["test"][1]))


def copy_of(model: Any) -> nn.Module:
    """Return a copy of a model on the CPU.

    Raises:
        UserError: when it is none, or cannot be copied.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UserError(f"expected a torch.nn.Module, not compiled or scripted; got {type(model).__name__}")
    try:
        return deepcopy(model).cpu()
    except Exception as error:  # a stranger's code
        raise UserError(f"expected a model that can be copied; {type(error).__name__}: {error}") from error


def _split(explained: list[Data], fitted: list[Data] | None) -> dict[str, tuple[list[Data], list[int]]]:
    """Return for every split the list that it is of, and positions in it."""
    if fitted is None:
        if len(explained) < 3:
            raise UserError(
                f"expected at least 3 graphs, to fit on, to choose thresholds on and to explain; got {len(explained)}: "
                "give graphs to fit on as fit=[...]"
            )
        train, validation, test = _shared_out(explained, SHARES)
        return {"train": (explained, train), "validation": (explained, validation), "test": (explained, test)}
    if len(fitted) < 2:
        raise UserError(f"expected at least 2 graphs to fit on and to choose thresholds on; got {len(fitted)}")
    train, validation = _shared_out(fitted, (0.75,))
    everything = list(range(len(explained)))
    return {"train": (fitted, train), "validation": (fitted, validation), "test": (explained, everything)}


def _listed(graphs: Any) -> list[Data]:
    found = list(graphs) if isinstance(graphs, Iterable) and not isinstance(graphs, BaseData) else []
    wrong = [type(x).__name__ for x in found if not isinstance(x, Data)]
    if wrong or not found:
        got = f"{wrong[0]} in it" if wrong else "an empty one" if isinstance(graphs, list) else type(graphs).__name__
        advice = ": to explain nodes of one graph give nodes=[...]" if isinstance(graphs, BaseData) else ""
        raise UserError(f"expected a list of torch_geometric.data.Data; got {got}{advice}")
    return found


def _tensor(labels: Any) -> Tensor:
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"expected labels as numbers, one for each graph; {type(error).__name__}: {error}") from error
    return found if found.is_floating_point() else found.long()


def _shared_out(graphs: list[Data], shares: tuple[float, ...]) -> list[list[int]]:
    """Return the positions of parts of a list, in its order: by a hash of each graph, whatever its place."""
    order = sorted(range(len(graphs)), key=lambda i: (_hash(graphs[i]), i))
    sizes = [max(1, round(share * len(graphs))) for share in shares]
    while sum(sizes) >= len(graphs):
        sizes[sizes.index(max(sizes))] -= 1
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [sorted(order[a:b]) for a, b in zip(ends, [*ends[1:], len(graphs)], strict=True)]


def _hash(data: Data) -> bytes:
    tensors = [x for name, x in sorted(data.to_dict().items()) if isinstance(x, Tensor) and name != "y"]
    return hashlib.sha256("".join(map(tensor_digest, tensors)).encode()).digest()


@torch.no_grad()
def outputs_of(given: GraphModel, graphs: GraphBatch) -> Tensor:
    """Return a model's output on graphs, of a copy of it.

    Raises:
        UserError: when it raises, with what, or returns anything but a tensor.
    """
    model: GraphModel = deepcopy(given)  # what it keeps of a pass is for the examination to find
    name, found = model.called, []
    for part in graphs.parts(MAX_EDGES):
        try:
            with evaluating(model):
                found.append(model(part.batch))
        except Exception as error:  # a stranger's code
            raise UserError(
                f"expected a model that runs on its graphs; {name} raised {first_line(error)}: mend it, or name "
                "what it is called with in arguments=[...]"
            ) from error
        if not isinstance(found[-1], Tensor):
            raise UserError(f"expected a tensor from the model; {name} returns {type(found[-1]).__name__}: return one")
    return torch.cat(found) if found[0].dim() else found[0]


def _output_of(logits: Tensor, graphs: GraphBatch) -> Output:
    """Return what the output means where it is logits of classes for every graph."""
    if logits.dim() == 2 and logits.shape[0] == graphs.num_graphs and logits.shape[1] > 1:
        return GraphClassification()
    rows = "one per node" if logits.dim() and logits.shape[0] == graphs.num_nodes else "something else"
    raise UserError(
        f"expected logits (G, C) of at least two classes for {graphs.num_graphs} graphs; the model returns "
        f"{tuple(logits.shape)}, {rows}: say what it means, such as output=BinaryClassification(), "
        "GraphRegression() or SequenceLabelling()"
    )


def _predicted(output: Output, logits: Tensor, graphs: GraphBatch) -> Tensor:
    predicted = output.predict(logits, graphs)
    return predicted.flatten() if predicted.shape[1:] == (1,) else predicted


def _own(found: list[Data], predicted: Tensor) -> Tensor | None:
    """Return the graphs' ``y`` as labels of the kind of ``predicted``; None where they are not all such."""
    own = [data.get("y") for data in found]
    if not all(isinstance(y, Tensor | int | float) for y in own):
        return None
    joined = torch.cat([torch.as_tensor(y).reshape(-1) for y in own])
    if not predicted.is_floating_point() and bool((joined == joined.round()).all()):
        joined = joined.long()  # whole numbers, in whatever type
    fits = joined.shape == predicted.shape and joined.is_floating_point() == predicted.is_floating_point()
    return joined if fits else None


def _plain_values(output: Output) -> str:
    values = {name: x.tolist() if isinstance(x, Tensor) else x for name, x in sorted(vars(output).items())}
    return f"{type(output).__qualname__} {values}"


def _code_of(model: GraphModel, output: Output) -> str:
    """Return a hash of the code of a model's classes, another one every time where one of them has no source."""
    classes = {kind for part in (*model.modules(), output) for kind in type(part).__mro__}
    names = {kind.__module__ for kind in classes}
    roots = {name for name in names if name.partition(".")[0] not in (*_LIBRARIES, *sys.stdlib_module_names)}
    try:
        return code_digest(*sorted(roots))
    except UserError:
        _say_nothing_is_reused()
        return secrets.token_hex(16)


@cache
def _say_nothing_is_reused() -> None:
    logger.warning(
        "the model's class has no source file, so a change of its code could not be noticed: nothing is reused; put it "
        "into a module to have results kept"
    )
