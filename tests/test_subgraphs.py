"""Neighbourhoods of one big graph against PyG's, one at a time; and whether a model says in them what it says there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, GraphConv, GraphNorm
from torch_geometric.utils import k_hop_subgraph

from attribench.base.errors import UserError
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification, NodeClassification
from attribench.model.output_binary import LinkPrediction
from attribench.model.subgraphs import Flow, check_neighbourhoods, neighbourhoods, whole_graph


def big_graph(nodes: int = 60, edges: int = 110, seed: int = 0) -> Data:
    """A directed graph with repeated edges, self-loops and nodes without any."""
    draw = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 4, generator=draw),
        edge_index=torch.randint(nodes - 5, (2, edges), generator=draw),
        weight=torch.rand(edges, generator=draw),
    )


DATA = big_graph()


def one_at_a_time(data: Data, targets: Tensor, num_hops: int, flow: str) -> GraphBatch:
    kind, graphs = "target" if targets.dim() == 1 else "pair", []
    for seeds in targets.view(len(targets), -1):
        nodes, edges, places, kept = k_hop_subgraph(seeds, num_hops, data.edge_index, True, data.num_nodes, flow)
        local = places[0] if kind == "target" else places[None]
        graph = Data(x=data.x[nodes], edge_index=edges, weight=data.weight[kept], node_id=nodes)
        graph[kind] = local
        graphs.append(graph)
    return GraphBatch.from_data_list(graphs, ["x", "node_id"], ["weight"], [kind], name="some")


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("num_hops", [1, 2, 3, 50])
@pytest.mark.parametrize("targets", [torch.arange(60), torch.tensor([7, 7, 59, 0]), torch.tensor([[3, 9], [4, 4]])])
def test_neighbourhoods_are_those_of_pyg(targets: Tensor, num_hops: int, flow: Flow) -> None:
    expected = one_at_a_time(DATA, targets, num_hops, flow)
    actual = neighbourhoods(DATA, targets, num_hops, edge=["weight"], name="some", flow=flow)
    for name in ("edge_index", "node_ptr", "edge_ptr", "graph_key", "edge_key"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for level in ("node", "edge", "graph"):
        mine, other = getattr(actual, level), getattr(expected, level)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_path_by_hand() -> None:
    path = Data(x=torch.arange(5.0)[:, None], edge_index=torch.tensor([[3, 2, 1, 0], [4, 3, 2, 1]]))  # 0 -> ... -> 4
    batch = neighbourhoods(path, torch.tensor([4, 1]), 2)
    assert batch["node_id"].tolist() == [2, 3, 4, 0, 1]
    assert batch.edge_index.tolist() == [[1, 0, 3], [2, 1, 4]]
    assert batch["target"].tolist() == [2, 1]
    assert batch.edge_ptr.tolist() == [0, 2, 3]
    pair = neighbourhoods(path, torch.tensor([[1, 4]]), 1)
    assert pair["node_id"].tolist() == [0, 1, 3, 4]
    assert pair["pair"].tolist() == [[1, 3]]


def test_a_graph_without_edges() -> None:
    data = Data(x=torch.zeros(3, 1), edge_index=torch.zeros(2, 0, dtype=torch.long))
    batch = neighbourhoods(data, torch.tensor([2, 0]), 3)
    assert batch["node_id"].tolist() == [2, 0]
    assert batch.num_edges == 0


@pytest.mark.parametrize(
    ("targets", "num_hops", "words"),
    [
        (torch.tensor([3, 60]), 2, "among the nodes 0 to 59; got 60 at position 1"),
        (torch.tensor([[3, 4], [5, -1]]), 2, r"got \[5, -1\] at position 1"),
        (torch.tensor([3.0]), 2, "got torch.float32"),
        (torch.zeros(0, dtype=torch.long), 2, r"T > 0; got torch.int64 \(0,\)"),
        (torch.zeros(2, 3, dtype=torch.long), 2, r"pairs \(T, 2\), T > 0; got torch.int64 \(2, 3\)"),
        (torch.tensor(3), 2, r"got torch.int64 \(\)"),
        (torch.tensor([3]), 0, "num_hops of 1 or more"),
    ],
)
def test_impossible_targets_are_named(targets: Tensor, num_hops: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        neighbourhoods(DATA, targets, num_hops)


def test_an_attribute_that_is_not_there_and_another_flow_are_named() -> None:
    with pytest.raises(UserError, match="'mass'"):
        neighbourhoods(DATA, torch.tensor([3]), 1, node=["mass"])
    with pytest.raises(UserError, match="'source_to_target' or 'target_to_source'; got 'up'"):
        neighbourhoods(DATA, torch.tensor([3]), 1, flow="up")  # type: ignore[arg-type]


class Network(GraphModel):
    """Two layers, then logits of every node, of a target node or of a pair."""

    def __init__(self, layer: Callable[[int, int], nn.Module], norm: nn.Module | None = None, about: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = layer(4, 8), layer(8, 8)
        self.norm = norm
        self.about = about
        self.readout = nn.Linear(8, 3)

    def decode(self, graphs: GraphBatch, state: None) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).relu()
        if self.norm is not None:
            h = self.norm(h, graphs.batch) if isinstance(self.norm, GraphNorm) else self.norm(h)
        h = self.second(h, graphs.edge_index).relu()
        if not self.about:
            logits: Tensor = self.readout(h)
            return logits
        nodes = graphs.node_ptr[:-1, None] + graphs[self.about].view(graphs.num_graphs, -1)
        logits = self.readout(h[nodes].prod(1))
        return logits[:, 0] if self.about == "pair" else logits


ALL = torch.arange(60)
PAIRS = torch.randint(60, (40, 2), generator=torch.Generator().manual_seed(3))


def test_two_convolutions_see_three_hops() -> None:
    whole, output = whole_graph(DATA), NodeClassification()
    model = Network(GCNConv).eval()
    assert check_neighbourhoods(model, output, whole, neighbourhoods(DATA, ALL, 3)) is None
    for too_few in (1, 2):  # with two, messages of the farthest nodes are divided by another degree
        message = check_neighbourhoods(model, output, whole, neighbourhoods(DATA, ALL, too_few))
        assert message is not None
        assert message.startswith("graph ")
        assert "num_hops = its layers + 1" in message
        assert "\n" not in message


def test_without_degrees_two_hops_do_and_the_first_target_that_differs_is_named() -> None:
    path = Data(x=torch.randn(5, 4, generator=torch.Generator().manual_seed(0)),
                edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]))  # fmt: skip
    whole, output, model = whole_graph(path), NodeClassification(), Network(GraphConv).eval()
    targets = torch.tensor([0, 1, 3, 4])
    assert check_neighbourhoods(model, output, whole, neighbourhoods(path, targets, 2)) is None
    message = check_neighbourhoods(model, output, whole, neighbourhoods(path, targets, 1))
    assert str(message).startswith("graph 2, about node 3: expected the logits of the whole graph")


@pytest.mark.parametrize("norm", [GraphNorm(8), nn.BatchNorm1d(8)])
def test_what_is_normalised_over_the_whole_graph_is_refused(norm: nn.Module) -> None:
    model = Network(GCNConv, norm).train()
    message = check_neighbourhoods(model, NodeClassification(), whole_graph(DATA), neighbourhoods(DATA, ALL, 3))
    assert "GraphNorm" in str(message)


def test_batch_norm_in_evaluation_mode_is_a_scale() -> None:
    model = Network(GCNConv, nn.BatchNorm1d(8)).eval()
    batch = neighbourhoods(DATA, ALL, 3)
    assert check_neighbourhoods(model, NodeClassification(), whole_graph(DATA), batch) is None


def test_pairs_and_targets_that_the_model_itself_picks() -> None:
    whole = whole_graph(DATA)
    pair, target = (Network(GCNConv, about=about).eval() for about in ("pair", "target"))
    assert check_neighbourhoods(pair, LinkPrediction(), whole, neighbourhoods(DATA, PAIRS, 3)) is None
    assert check_neighbourhoods(target, GraphClassification(), whole, neighbourhoods(DATA, ALL, 3)) is None
    message = check_neighbourhoods(pair, LinkPrediction(), whole, neighbourhoods(DATA, PAIRS, 1))
    assert " and " in str(message).split(":")[0]
    assert check_neighbourhoods(target, GraphClassification(), whole, neighbourhoods(DATA, ALL, 1)) is not None


def test_logits_that_are_not_numbers_differ() -> None:
    model = Network(GCNConv).eval()
    with torch.no_grad():
        model.readout.bias[0] = float("nan")
    batch = neighbourhoods(DATA, ALL, 3)
    assert "graph 0" in str(check_neighbourhoods(model, NodeClassification(), whole_graph(DATA), batch))
