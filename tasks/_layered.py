"""Models whose algorithm is known by construction: what the tasks with a gold mask for every layer share.

A graph's nodes carry a *signal*, *roles* (which node is the target, say) and *chatter*. Each R-GCN layer sums, for
every node, the signals of its in-neighbours, with weights that were set and not trained; which edge types pass a
signal in which layer is the task's algorithm. The output reads the signal of the target and nothing else. Chatter is
drawn at random, every message carries some, it moves from layer to layer through random weights and tanh, and nothing
reads it: a message that does not matter is not zero.

**The gold.** A message is *used* if replacing it by zero changes the prediction in some context the task allows. A
context is any graph of the task, with any set of other messages replaced by zero, in which the same message is sent
along an edge of the same type between nodes in the same state. So a message is used when the algorithm has to read
it, also where it turns out not to be decisive, as the toy's edges of a colour in the query are; and what is used can
be told from what the message and its two nodes say, without looking ahead.

Three conditions decide, and each task's docstring proves them for its algorithm:

1. the message's signal is one that the readout can tell from zero (not zero; for a difference of counts, not equal);
2. the target is at the right distance: the message enters it in the last layer, and does not enter it in the last but
   one, where the target, which has no edge to itself, could not read it any more;
3. nothing else: where both hold, a context exists.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.nn import FastRGCNConv, MessagePassing

from attribench.base.errors import UserError
from attribench.base.seeds import generator
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch, named_keys
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.method import config
from attribench.plugins.task import SPLITS, Extras, Problem, Split, Task, TaskSeeds, Workshop, findings_of_study
from attribench.plugins.training import accuracy

TARGET = 1
"""Position in each graph of the node whose signal is read."""
START = 0
"""Position in each graph of the node that the signal starts from, where there is one."""


@config
class LayeredConfig:
    """Options of the tasks with a gold mask for every layer."""

    usual: ClassVar[int] = 6

    depth: int = Field(2, ge=2, le=10, description="number of layers K")
    min_nodes: int | None = Field(None, ge=4, le=1000, description="fewest nodes of a graph; None: 6, or depth + 2")
    max_nodes: int | None = Field(None, ge=4, le=1000, description="most nodes of a graph; None: 4 more")
    density: float = Field(1.5, gt=0, description="mean number of random edges out of a node")
    chatter: int = Field(4, ge=0, le=1000, description="channels that every message fills and nothing reads")
    sharpness: float = Field(
        6.0, ge=1e-3, le=1e3, description="logit of one unit of signal; decisions are half of it away from 0"
    )
    train: int = Field(2_000, ge=1, description="training graphs, which methods fit on; the model is not trained")
    validation: int = Field(200, ge=1, description="validation graphs")
    test: int = Field(200, ge=1, description="test graphs")

    def __post_init__(self) -> None:
        fewest = self.fewest()
        if self.min_nodes is None:
            object.__setattr__(self, "min_nodes", min(max(self.usual, fewest), self.max_nodes or self.usual + fewest))
        if self.max_nodes is None:
            object.__setattr__(self, "max_nodes", self.sizes[0] + 4)
        if not fewest <= self.sizes[0] <= self.sizes[1]:
            raise UserError(
                f"expected {fewest} <= min_nodes <= max_nodes, as many as the options of this task need; got "
                f"{self.sizes[0]} to {self.sizes[1]}: change one of the two, or leave both out"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the fewest and most nodes."""
        return self.min_nodes or 0, self.max_nodes or 0

    def fewest(self) -> int:
        """Return the fewest nodes that leave room for what is planted, and for a walk beside it."""
        return self.depth + 2


@dataclass(frozen=True, eq=False)
class Drawn:
    """Graphs as dense tensors, before they become a batch.

    Args:
        types: ``(G, N, N)`` int64, the type of the edge from row to column; -1 where there is none.
        start: ``(G, N, S)``, the signal that every node starts with.
        roles: ``(G, N, R)``; what nodes know of their part in the task. Role 0 marks the target.
        num_nodes: ``(G,)``.
    """

    types: Tensor
    start: Tensor
    roles: Tensor
    num_nodes: Tensor


class LayeredModel(GraphModel):
    """R-GCN layers whose weights are set; the states are [signal, roles, chatter].

    Args:
        layers: one per call; the same module several times where parameters are shared.
        read: ``(S,)``, the logit is ``sharpness`` times the product with the target's signal, less 1/2.
        width: number of channels that are kept as they are: signal and roles. The rest is chatter.
        saturates: whether a signal above 1 counts as 1, after every layer.
        sharpness: see :class:`LayeredConfig`.
    """

    def __init__(
        self, layers: list[MessagePassing], read: Tensor, width: int, saturates: bool, sharpness: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.register_buffer("read", read)
        self.width = width
        self.saturates = saturates
        self.sharpness = sharpness

    def encode(self, graphs: GraphBatch) -> Tensor:
        """Return h(0) ``(N, D)``."""
        return graphs["x"]

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        """Return logits ``(G, 2)`` from the targets."""
        signals = len(self.get_buffer("read"))
        for layer in self.layers:
            state = layer(state, graphs.edge_index, graphs["edge_type"])
            signal, roles, chatter = state.tensor_split((signals, self.width), dim=1)
            if self.saturates:
                signal = 1 - (1 - signal).relu()
            state = torch.cat([signal, roles, chatter.tanh()], dim=1)
        target = state[graphs.node_ptr[:-1] + TARGET, :signals]
        half = self.sharpness * (target @ self.get_buffer("read") - 0.5) / 2
        return torch.stack([-half, half], dim=1)

    def gate_modules(self) -> list[nn.Module]:
        """Return the gates of the layers that have one."""
        return [layer.gate for layer in self.layers if isinstance(layer, GatedConv)]


class LayeredConv(FastRGCNConv):
    """FastRGCNConv that multiplies with all relations' weights at once, rather than gather a matrix for every edge."""

    def message(self, x_j: Tensor, edge_type: Tensor, edge_index_j: Tensor) -> Tensor:
        """Return messages ``(E, D)``."""
        num_relations, size, _ = self.weight.shape
        by_relation = (x_j @ self.weight.transpose(0, 1).reshape(size, -1)).view(-1, num_relations, size)
        messages: Tensor = by_relation[torch.arange(len(edge_type), device=edge_type.device), edge_type]
        return messages


class GatedConv(LayeredConv):
    """The convolution with messages that are multiplied by the output ``(E, 1)`` of a gate module."""

    gate: nn.Module

    def message(self, x_j: Tensor, edge_type: Tensor, edge_index_j: Tensor) -> Tensor:
        """Return gated messages ``(E, D)``."""
        gated: Tensor = self.gate(edge_type) * super().message(x_j, edge_type, edge_index_j)
        return gated


class Layered(Task):
    """Base of the tasks with a gold mask for every layer. Subclasses draw graphs and set the weights."""

    Config = LayeredConfig
    quick = {"depth": 3, "train": 60, "validation": 30, "test": 30}
    meanings = {
        "test": "accuracy on test graphs",
        "audit_gold_alone": "share of test graphs whose prediction is right with the gold messages alone",
        "audit_gold_largest_change": "largest change of a logit when the gold messages alone are kept",
        "positive": "share of test graphs with label 1",
        "gold_share": "share of messages that are gold",
    }
    edge_types: ClassVar[tuple[str, ...]]
    #: The product of these with the target's signal is compared with 1/2.
    read: ClassVar[tuple[float, ...]] = (1.0,)
    saturates: ClassVar[bool] = False
    config: Any

    def card(self) -> str:
        """Return the docstring with its proof, what gold means, and what the reference study found."""
        findings = findings_of_study("layers", Path(__file__).parent, task=self.name).strip()
        return f"# {self.name}\n\n{super().card()}\n\n## What these tasks share\n\n{__doc__}\n{findings}\n"

    @abstractmethod
    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw graphs."""

    @abstractmethod
    def passes(self, layer: int) -> Tensor:
        """Return ``(T, S + R, S)``: the signal that an edge of each type sends, from its source's [signal, roles]."""

    @abstractmethod
    def label(self, drawn: Drawn) -> Tensor:
        """Return ``(G,)`` bool by counting in the dense graphs, without the model."""

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Draw the graphs, set the weights, and check that the model computes the labels from the gold alone."""
        config = self.config
        sizes = {"train": config.train, "validation": config.validation, "test": config.test}
        splits = {name: self.split(sizes[name], seeds.data_seed, name).to(workshop.device) for name in SPLITS}
        model = self.model(splits["train"].graphs["x"].shape[1] - config.chatter).to(workshop.device).eval()
        test = splits["test"]
        figures = {"test": accuracy(model, test)}
        assert test.gold is not None
        with Gates(model) as gates, torch.no_grad():
            recording = gates.record(test.graphs)
            alone = recording.forward(test.gold.to(recording.logits.dtype))
            figures["audit_gold_alone"] = float((alone.argmax(1) == test.labels).double().mean())
            figures["audit_gold_largest_change"] = float((alone - recording.logits).abs().max())
        figures["positive"] = float(test.labels.double().mean())
        figures["gold_share"] = float(test.gold.double().mean())
        confirmed = min(figures["test"], figures["audit_gold_alone"]) == 1.0
        return Problem(
            model, GraphClassification(), splits, self.edge_types, figures, confirmed, class_names=("no", "yes")
        )

    def split(self, count: int, data_seed: int, name: str) -> Split:
        """Draw a split with its labels and gold."""
        noise = generator(self.name, "data", data_seed, name)
        drawn = self.draw(count, noise)
        graphs = self.batch(drawn, noise, name)
        return Split(graphs, self.label(drawn).long(), self.gold(graphs), self.extras(graphs))

    def batch(self, drawn: Drawn, draw: torch.Generator, name: str) -> GraphBatch:
        """Turn dense graphs into a batch; edges are in random order."""
        count, most, _ = drawn.types.shape
        graph, source, target = (drawn.types >= 0).nonzero().T
        order = (graph + torch.rand(len(graph), generator=draw, dtype=torch.float64)).argsort()
        graph, source, target = graph[order], source[order], target[order]
        zero = torch.zeros(1, dtype=torch.long)
        node_ptr = torch.cat([zero, drawn.num_nodes.cumsum(0)])
        edge_ptr = torch.cat([zero, graph.bincount(minlength=count).cumsum(0)])
        chatter = torch.randn(count, most, self.config.chatter, generator=draw)
        x = torch.cat([drawn.start, drawn.roles, chatter], dim=2)
        return GraphBatch(
            edge_index=torch.stack([source, target]) + node_ptr[graph],
            node_ptr=node_ptr,
            edge_ptr=edge_ptr,
            graph_key=named_keys(count, f"{self.name} {name}"),
            edge_key=torch.arange(len(graph)) - edge_ptr[graph],
            node={"x": x[torch.arange(most) < drawn.num_nodes[:, None]]},
            edge={"edge_type": drawn.types[graph, source, target]},
        )

    def extras(self, graphs: GraphBatch) -> Extras:
        """Return what part nodes have: the target, and those that a signal starts from."""
        signals = len(self.read)
        starts, target = (graphs["x"][:, :signals] != 0).any(1).tolist(), (graphs["x"][:, signals] > 0).tolist()
        groups = ["target" if t else "start" if s else "other" for s, t in zip(starts, target, strict=True)]
        return Extras(node={"group": groups})

    def model(self, width: int) -> LayeredModel:
        """Set the weights; chatter's are drawn from torch's global generator, which the model seed seeds.

        Args:
            width: number of channels of signal and roles.
        """
        layers = [self.layer(k, width) for k in range(self.config.depth)]
        return LayeredModel(layers, torch.tensor(self.read), width, self.saturates, self.config.sharpness)

    def layer(self, k: int, width: int) -> MessagePassing:
        """Return layer ``k`` with its weights set."""
        layer = self.convolution(k, width + self.config.chatter)
        with torch.no_grad():
            self.set_weights(layer, k, width)
        return layer

    def set_weights(self, layer: LayeredConv, k: int, width: int) -> None:
        """Let signals pass as the task says, keep roles and chatter, and let new chatter flow in."""
        chatter, signals = self.config.chatter, len(self.read)
        layer.root.zero_()
        layer.root[signals:, signals:] = torch.eye(len(layer.root) - signals)
        layer.weight.zero_()
        layer.weight[:, :width, :signals] = self.passes(k)
        layer.weight[:, :, width:] = torch.randn(len(self.edge_types), width + chatter, chatter)

    def convolution(self, k: int, size: int) -> LayeredConv:
        """Return a convolution whose weights are set afterwards."""
        return LayeredConv(size, size, len(self.edge_types), aggr="add", bias=False)

    def gold(self, graphs: GraphBatch) -> Tensor:
        """Return the messages used, ``(K, E)`` bool, from the algorithm's signals in whole numbers."""
        read = torch.tensor(self.read)
        width = graphs["x"].shape[1] - self.config.chatter
        known = graphs["x"][:, :width].double()
        (source, target), types = graphs.edge_index, graphs["edge_type"]
        is_target = known[:, len(read)] > 0
        masks = []
        for k in range(self.config.depth):
            message = torch.einsum("es,est->et", known[source], self.passes(k).double()[types])
            tells = message @ read.double() != 0
            left = self.config.depth - 1 - k
            reads = is_target[target] if left == 0 else ~is_target[target] if left == 1 else True
            masks.append(tells & reads)
            signal = torch.zeros(len(known), len(read), dtype=torch.float64).index_add(0, target, message)
            known[:, : len(read)] = signal.clamp(max=1) if self.saturates else signal
        return torch.stack(masks)


def random_graphs(
    config: LayeredConfig, count: int, draw: torch.Generator, types: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Draw directed graphs without loops: every ordered pair of nodes is an edge with equal probability.

    Args:
        types: what types are drawn from.

    Returns:
        types ``(G, N, N)``, -1 where there is no edge, and the number of nodes ``(G,)``.
    """
    least, most = config.sizes
    num_nodes = torch.randint(least, most + 1, (count,), generator=draw)
    exists = torch.rand(count, most, most, generator=draw) < (config.density / (num_nodes - 1))[:, None, None]
    there = torch.arange(most) < num_nodes[:, None]
    exists &= there[:, :, None] & there[:, None, :] & ~torch.eye(most, dtype=torch.bool)
    kinds = torch.tensor(types)[torch.randint(len(types), exists.shape, generator=draw)]
    return torch.where(exists, kinds, -1), num_nodes


def marks(count: int, nodes: int, *positions: int) -> Tensor:
    """Return ``(G, N, len(positions))``: one column for each position, 1 at that node."""
    columns = torch.zeros(count, nodes, len(positions))
    for i, position in enumerate(positions):
        columns[:, position, i] = 1
    return columns
