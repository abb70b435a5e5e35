"""Training of graph models for tasks: plain Adam on cross-entropy, until the task's own stopping rule holds."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..base.seeds import generator
from ..model.model import GraphModel
from .method import untracked
from .task import Split


@torch.no_grad()
def accuracy(model: GraphModel, split: Split, batch_size: int = 10_000) -> float:
    """Return the share of graphs of a split that the model classifies correctly."""
    model.eval()
    right = sum(
        int((model(graphs).argmax(-1) == split.labels[index]).sum())
        for index, graphs in split.graphs.minibatches(batch_size)
    )
    return right / split.graphs.num_graphs


def train_classifier(
    model: GraphModel,
    train: Split,
    validation: Split,
    *,
    seed: int,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    goal: float = 1.0,
    track: Callable[..., Any] = untracked,
) -> dict[str, float]:
    """Train until ``goal`` is reached on validation and training graphs alike, for at most ``epochs`` epochs.

    The training graphs are part of the rule because a few hundred validation graphs can all be right by luck.

    Returns:
        The number of epochs, and the accuracies on both splits.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    shuffle = generator("training", seed)
    reached = {"epochs": 0.0, "train": 0.0, "validation": 0.0}
    for epoch in track(range(epochs), "training the model"):
        model.train()
        for index, graphs in train.graphs.minibatches(batch_size, shuffle):
            optimizer.zero_grad()
            F.cross_entropy(model(graphs), train.labels[index]).backward()
            optimizer.step()
        reached = {"epochs": epoch + 1.0, "train": 0.0, "validation": accuracy(model, validation)}
        if reached["validation"] >= goal or epoch + 1 == epochs:
            reached["train"] = accuracy(model, train)
            if reached["train"] >= goal:
                break
    model.eval()
    return reached
