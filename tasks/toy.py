"""The toy star graphs with a gold standard: Schlichtkrull, De Cao & Titov, ICLR 2021, Section 4 and Appendix E.

A star has a centroid and coloured edges from its leaves. Given a query <x, y>, the label says whether more edges have
colour x than colour y. The model must count both colours, so the gold mask is all edges of colour x or y. That is a
claim about the trained model, which the audit tests for every one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from attribench.base.errors import UserError
from attribench.base.seeds import derive, generator
from attribench.model.graphs import GraphBatch, named_keys
from attribench.model.model import GraphModel
from attribench.model.noise import EdgeNoise
from attribench.model.output import GraphClassification
from attribench.plugins.method import config
from attribench.plugins.registry import TASKS
from attribench.plugins.task import SPLITS, Extras, Problem, Split, Task, TaskSeeds, Workshop, findings_of_study
from attribench.plugins.training import accuracy, train_classifier

AUDIT_LEVEL = 0.99
"""The gold counts as confirmed when every accuracy, also under the audit's interventions, is at least this."""


TABLE_1 = {
    "erasure": {"precision": 1.0, "recall": 0.167, "f1": 0.286},
    "integrated-gradients": {"precision": 0.883, "recall": 0.935, "f1": 0.908},
    "information-bottleneck": {"precision": 0.553, "recall": 0.515, "f1": 0.526},
    "gnnexplainer": {"precision": 1.0, "recall": 0.168, "f1": 0.287},
    "graphmask-nonamortized": {"precision": 0.967, "recall": 0.262, "f1": 0.412},
    "graphmask": {"precision": 0.988, "recall": 1.0, "f1": 0.994},
}
TABLE_1_SETTINGS = ("colours", "min_leaves", "max_leaves", "positive_share", "ties", "layers", "width", "hidden")


@config
class ToyConfig:
    """Options; the paper's where it states them. It trains at a learning rate of 1e-4."""

    colours: int = Field(6, ge=3, description="number of colours C")
    min_leaves: int = Field(6, ge=2, description="fewest leaves of a star")
    max_leaves: int = Field(12, ge=2, description="most leaves of a star")
    train: int = Field(10_000, ge=1, description="training graphs")
    validation: int = Field(500, ge=1, description="validation graphs")
    test: int = Field(500, ge=1, description="test graphs")
    layers: int = Field(1, ge=1, description="R-GCN layers; above 1 they have residual connections")
    positive_share: float | None = Field(None, gt=0, lt=1, description="share of label 1; None leaves it to chance")
    ties: bool = Field(False, description="label 1 also where x and y are equally many, so in a star without edges")
    width: int = Field(50, ge=1, description="width of the R-GCN states")
    hidden: int = Field(100, ge=1, description="width of the MLPs' hidden layers")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    batch_size: int = Field(64, ge=1, description="graphs per training step")
    epochs: int = Field(100, ge=1, description="most epochs; training stops when train and validation are all right")

    def __post_init__(self) -> None:
        if self.min_leaves > self.max_leaves:
            raise UserError(
                f"expected toy.min_leaves <= toy.max_leaves; got {self.min_leaves} and {self.max_leaves}: change one"
            )


class RGCNLayer(MessagePassing):
    """R-GCN with messages m = ReLU(W_c h_u + b_c) (Eq. 13) and sum aggregation."""

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__(aggr="sum")
        self.weight = nn.Parameter(torch.empty(num_relations, width, width))
        self.bias = nn.Parameter(torch.zeros(num_relations, width))
        nn.init.uniform_(self.weight, -((3 / width) ** 0.5), (3 / width) ** 0.5)  # Glorot

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Return the sums of messages ``(N, D)``."""
        out: Tensor = self.propagate(edge_index, x=x, edge_type=edge_type)
        return out

    def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:
        """Return messages ``(E, D)``; one matrix product for all relations is faster than gathering weights by edge."""
        num_relations, width, _ = self.weight.shape
        by_relation = (x_j @ self.weight.transpose(0, 1).reshape(width, -1)).view(-1, num_relations, width)
        own = by_relation[torch.arange(len(edge_type), device=edge_type.device), edge_type]
        return (own + self.bias[edge_type]).relu()


class ToyModel(GraphModel):
    """Initial MLP, R-GCN layers, and an MLP on the centroid's state (Appendix E)."""

    layer: type[RGCNLayer] = RGCNLayer

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        c, d, h = config.colours, config.width, config.hidden
        self.initial = nn.Sequential(nn.Linear(2 * c, h), nn.ReLU(), nn.Linear(h, d))
        self.layers = nn.ModuleList(self.layer(d, c) for _ in range(config.layers))
        self.readout = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, 2))

    def encode(self, graphs: GraphBatch) -> Tensor:
        """Return h(0) ``(N, D)`` from the query's one-hot codes, which every node of a star carries."""
        state: Tensor = self.initial(graphs["x"])
        return state

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        """Return logits ``(G, 2)`` from the centroids, the first node of each star."""
        for layer in self.layers:
            update = layer(state, graphs.edge_index, graphs["edge_type"])
            state = update if len(self.layers) == 1 else state + update
        logits: Tensor = self.readout(state[graphs.node_ptr[:-1]])
        return logits


@TASKS.register
class Toy(Task):
    """Star graphs: are there more edges of colour x than of colour y? Gold: the edges of both colours."""

    name = "toy"
    Config = ToyConfig
    quick = {"train": 400, "validation": 60, "test": 60, "colours": 3, "width": 16, "hidden": 32, "epochs": 40}
    meanings = {
        "epochs": "epochs until training and validation graphs were all right",
        "train": "accuracy on training graphs",
        "validation": "accuracy on validation graphs",
        "test": "accuracy on test graphs",
        "audit_recolour_other": "accuracy after other edges than gold were recoloured, against the new label",
        "audit_recolour_gold": "accuracy after gold edges were recoloured, against the new label",
        "audit_remove_other": "accuracy after other edges than gold were removed, against the new label",
        "audit_remove_gold": "accuracy after gold edges were removed, against the new label",
        "audit_recolour_other_changed": "share of graphs that recolouring of other edges changed",
        "audit_recolour_gold_changed": "share of graphs that recolouring of gold edges changed",
        "audit_remove_other_changed": "share of graphs that removal of other edges changed",
        "audit_remove_gold_changed": "share of graphs that removal of gold edges changed",
    }
    model: ClassVar[type[ToyModel]] = ToyModel
    config: ToyConfig

    def published(self) -> dict[str, dict[str, float]]:
        """Return the paper's Table 1, where the stars and the model are the paper's."""
        paper = ToyConfig()
        same = all(getattr(self.config, name) == getattr(paper, name) for name in TABLE_1_SETTINGS)
        return TABLE_1 if same else {}

    def card(self) -> str:
        """Return what the reference study found about the paper's conclusions."""
        return findings_of_study("toy", Path(__file__).parent)

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Draw the stars, train the model, and audit the gold."""
        config = self.config
        sizes = {"train": config.train, "validation": config.validation, "test": config.test}
        splits = {name: make_split(config, sizes[name], seeds.data_seed, name).to(workshop.device) for name in SPLITS}
        model = self.model(config).to(workshop.device)
        figures = workshop.cached(
            model,
            lambda: train_classifier(
                model,
                splits["train"],
                splits["validation"],
                seed=derive("toy", "training", seeds.data_seed, seeds.model_seed),
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                track=workshop.track,
            ),
        )
        model.eval()
        accuracies, changed = audit(model, splits["test"], config)
        figures = {**figures, "test": accuracy(model, splits["test"]), **accuracies, **changed}
        colours = tuple(f"colour {c}" for c in range(config.colours))
        confirmed = min(figures["test"], *accuracies.values()) >= AUDIT_LEVEL and asked_of_both(changed)
        classes = ("fewer x than y", "no fewer") if config.ties else ("no more x than y", "more x than y")
        return Problem(model, GraphClassification(), splits, colours, figures, confirmed, class_names=classes)


def make_split(config: ToyConfig, count: int, data_seed: int, name: str) -> Split:
    """Draw ``count`` stars: leaves, colours and queries uniformly, x other than y.

    With ``positive_share``, stars are drawn until there are enough of each label, and the surplus is left out.
    """
    draw = generator("toy", "data", data_seed, name)
    if config.positive_share is None:
        graphs = draw_stars(config, count, draw)
    else:
        positive = round(count * config.positive_share)
        pool, wanted = draw_stars(config, 4 * count, draw), {1: positive, 0: count - positive}
        index = [(label(pool, config.ties) == value).nonzero()[:number, 0] for value, number in wanted.items()]
        if sum(map(len, index)) < count:
            raise UserError(f"expected toy.positive_share nearer to chance; got {config.positive_share}: too few stars")
        graphs = pool.select(torch.cat(index)[torch.randperm(count, generator=draw)])
    graphs = replace(graphs, graph_key=named_keys(count, f"toy {name}"))
    centroid = torch.zeros(graphs.num_nodes, dtype=torch.bool)
    centroid[graphs.node_ptr[:-1]] = True
    groups = ["centroid" if at_centre else "leaf" for at_centre in centroid.tolist()]
    extras = Extras(node={"group": groups}, graph={"query": graphs["query"]})
    return Split(graphs, label(graphs, config.ties), gold(graphs)[None], extras)


def draw_stars(config: ToyConfig, count: int, draw: torch.Generator) -> GraphBatch:
    """Draw stars from a generator."""
    leaves = torch.randint(config.min_leaves, config.max_leaves + 1, (count,), generator=draw)
    x = torch.randint(config.colours, (count,), generator=draw)
    y = (x + torch.randint(1, config.colours, (count,), generator=draw)) % config.colours
    node_ptr = torch.cat([torch.zeros(1, dtype=torch.long), (leaves + 1).cumsum(0)])
    edge_ptr = torch.cat([torch.zeros(1, dtype=torch.long), leaves.cumsum(0)])
    star = torch.repeat_interleave(torch.arange(count), leaves)
    position = torch.arange(int(edge_ptr[-1])) - edge_ptr[star]
    query = torch.stack([x, y], dim=1)
    one_hot = F.one_hot(query, config.colours).flatten(1).to(torch.get_default_dtype())
    return GraphBatch(
        edge_index=torch.stack([node_ptr[star] + 1 + position, node_ptr[star]]),
        node_ptr=node_ptr,
        edge_ptr=edge_ptr,
        graph_key=torch.arange(count),
        edge_key=position,
        node={"x": torch.repeat_interleave(one_hot, leaves + 1, dim=0)},
        edge={"edge_type": torch.randint(config.colours, (len(star),), generator=draw)},
        graph={"query": query},
    )


def gold(graphs: GraphBatch) -> Tensor:
    """Return ``(E,)``: edges whose colour is one of the two that the query names."""
    query = graphs["query"][graphs.edge_graph]
    return (graphs["edge_type"][:, None] == query).any(dim=1)


def label(graphs: GraphBatch, ties: bool = False) -> Tensor:
    """Return ``(G,)``: 1 where more edges have colour x than colour y, or with ``ties`` as many."""
    query = graphs["query"][graphs.edge_graph]
    x, y = (graphs.sum_per_graph((graphs["edge_type"] == query[:, i]).long()) for i in (0, 1))
    return ((x >= y) if ties else (x > y)).long()


def audit(model: GraphModel, split: Split, config: ToyConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Return, for four interventions, the share of graphs whose prediction is the recomputed label.

    Also return the share of graphs that each intervention changed: one that changes none says nothing. With three
    colours there is but one outside the query; where all stars have as many leaves, none can be removed.

    Recolouring is drawn uniformly from the colours outside the query (other edges) or from all colours (gold edges).
    Removal drops a random number of edges of one kind, down to the fewest leaves seen in training.
    """
    graphs = split.graphs
    noise = EdgeNoise(graphs, 1, derive("toy", "audit"))
    is_gold = gold(graphs)
    outside = _colours_outside(graphs["query"], config.colours)[graphs.edge_graph]
    drawn = noise.uniform(0)[0]
    any_colour = (drawn * config.colours).long()
    other = outside.gather(1, (drawn * (config.colours - 2)).long()[:, None])[:, 0]

    def recoloured(where: Tensor, colours: Tensor) -> GraphBatch:
        return replace(graphs, edge={"edge_type": torch.where(where, colours, graphs["edge_type"])})

    variants = {
        "recolour_other": recoloured(~is_gold, other),
        "recolour_gold": recoloured(is_gold, any_colour),
        "remove_other": graphs.keep_edges(~_removable(graphs, ~is_gold, noise, config.min_leaves)),
        "remove_gold": graphs.keep_edges(~_removable(graphs, is_gold, noise, config.min_leaves)),
    }
    accuracies = {f"audit_{name}": accuracy(model, Split(x, label(x, config.ties))) for name, x in variants.items()}
    return accuracies, {f"audit_{name}_changed": _changed(graphs, x) for name, x in variants.items()}


def asked_of_both(changed: dict[str, float]) -> bool:
    """Return whether some intervention changed gold edges, and some changed others; without that nothing was asked."""
    return all(
        any(share > 0 for name, share in changed.items() if name.endswith(f"_{kind}_changed"))
        for kind in ("gold", "other")
    )


def _changed(before: GraphBatch, after: GraphBatch) -> float:
    """Return the share of stars that have other edges or colours."""
    fewer = before.num_edges_per_graph != after.num_edges_per_graph
    if not bool(fewer.any()) and before.num_edges == after.num_edges:
        fewer = before.sum_per_graph((before["edge_type"] != after["edge_type"]).long()) > 0
    return float(fewer.double().mean())


def _colours_outside(query: Tensor, colours: int) -> Tensor:
    """Return ``(G, C - 2)``: the colours that the query does not name."""
    every = torch.arange(colours, device=query.device).expand(len(query), colours)
    return every[(every[:, :, None] != query[:, None, :]).all(-1)].view(len(query), colours - 2)


def _removable(graphs: GraphBatch, kind: Tensor, noise: EdgeNoise, fewest: int) -> Tensor:
    """Choose edges of a kind at random, as many as may go per graph times a draw from U(0, 1)."""
    order = torch.where(kind, noise.uniform(1)[0], 2.0) + graphs.edge_graph * 4.0
    rank = order.double().argsort().argsort() - graphs.edge_ptr[graphs.edge_graph]
    spare = (graphs.num_edges_per_graph - fewest).clamp(min=0)
    most = torch.minimum(spare, graphs.sum_per_graph(kind.long()))
    share = noise.uniform(2)[0][graphs.edge_ptr[:-1]]
    return kind & (rank < (share * (most + 1)).long()[graphs.edge_graph])
