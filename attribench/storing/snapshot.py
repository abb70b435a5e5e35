"""What is stored of a problem, taken from it when it is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ..base.errors import UserError
from ..base.pieces import ProblemSpec
from ..examining.layers import layer_names
from ..model.output import NodeClassification, Output
from ..model.output_binary import LinkPrediction
from ..plugins.task import Problem, Split
from .stored_problem import SPLITS, Column, StoredProblem, StoredSplit

_TARGETS: dict[type[Output], str] = {NodeClassification: "target", LinkPrediction: "pair"}
"""Graph attributes that name the nodes which a prediction is about."""


def stored_problem(problem: Problem, spec: ProblemSpec, logits: Mapping[str, Tensor]) -> StoredProblem:
    """Return what is stored of a problem.

    Args:
        problem: that was examined.
        spec: what it is.
        logits: the model's output for validation and test graphs.

    Raises:
        UserError: when the task's extras, or the names that it gives, do not fit its graphs.
    """
    graphs = problem.splits["test"].graphs
    try:
        splits = {name: _stored_split(problem, problem.splits[name], logits[name]) for name in SPLITS}
        highest = [int(x.edge_type.max(initial=-1)) for x in splits.values() if x.edge_type is not None]
        return StoredProblem(
            task=spec.task,
            data_seed=spec.data_seed,
            model_seed=spec.model_seed,
            level=problem.output.level,
            layers=layer_names(problem.model, graphs.select(torch.arange(1, device=graphs.device))),
            edge_types=problem.edge_types if max(highest, default=-1) < len(problem.edge_types) else (),
            class_names=problem.class_names,
            splits=splits,
        )
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{spec.task}: {why}: mend the extras of its splits, or the names of its problem") from error


def _stored_split(problem: Problem, split: Split, logits: Tensor) -> StoredSplit:
    graphs = split.graphs
    about = next((name for kind, name in _TARGETS.items() if isinstance(problem.output, kind)), None)
    # Tasks may use these names otherwise than is meant here.
    kinds, pos = (None if x is None else _array(x) for x in (graphs.edge.get("edge_type"), graphs.node.get("pos")))
    typed = kinds is not None and kinds.ndim == 1 and kinds.dtype == np.int64 and bool((kinds >= 0).all())
    placed = pos is not None and pos.ndim == 2 and pos.dtype.kind == "f" and 1 <= pos.shape[1] <= 3
    return StoredSplit(
        node_ptr=_array(graphs.node_ptr),
        edge_ptr=_array(graphs.edge_ptr),
        edge_index=_array(graphs.edge_index),
        graph_key=_array(graphs.graph_key),
        edge_key=_array(graphs.edge_key),
        edge_type=kinds if typed else None,
        gold=None if split.gold is None else _array(split.gold),
        labels=_array(split.labels),
        predictions=_array(problem.output.predict(logits, graphs)),
        targets=None if about is None else _array(graphs.graph[about]).reshape(graphs.num_graphs, -1),
        pos=pos if placed else None,
        node=_columns(split.extras.node),
        edge=_columns(split.extras.edge),
        graph=_columns(split.extras.graph),
    )


def _columns(extras: Mapping[str, Tensor | Sequence[str]]) -> dict[str, Column]:
    return {name: _array(column) if isinstance(column, Tensor) else tuple(column) for name, column in extras.items()}


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array.astype(np.int64) if array.dtype.kind in "iu" else array
