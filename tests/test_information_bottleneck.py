"""The readout information bottleneck: formulas against torch's distributions and plain loops, and a small problem."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_erasure import contract, one, plain_logits
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from attribench.base.limits import MAX_EDGES
from attribench.base.seeds import derive, generator
from attribench.checking.methods import contract_subject, random_graphs
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS

bottleneck: Any = importlib.import_module("attribench.methods.information_bottleneck")
repeated: Any = importlib.import_module("attribench.methods._repeated")
KIND = METHODS["information-bottleneck"]


def make(subject: Subject, **options: Any) -> Any:
    return KIND(make_config(KIND.name, KIND.Config, options), subject=subject, seed=4)


def plain_messages(model: Any, graph: GraphBatch) -> list[tuple[Tensor, Tensor]]:
    """Return [h_u, h_v, m] and m of every layer of the contract model, for the unmasked pass."""
    (u, v), relation = graph.edge_index, graph["edge_type"]
    h, found = model.embed(graph["x"]), []
    for layer in model.layers:
        messages = torch.stack([h[a] @ layer.weight[r] for a, r in zip(u, relation, strict=True)])
        found.append((torch.cat([h[u], h[v], messages], dim=1), messages))
        h = (torch.zeros_like(h).index_add(0, v, messages) + h @ layer.root + layer.bias).tanh()
    return found


def prepared(depth: int = 2, **options: Any) -> tuple[Any, GraphBatch]:
    """A method with readouts whose gates are neither open nor closed, over a trained-on batch of a few graphs."""
    subject, graphs = contract(depth, [(3, 4), (4, 7), (3, 5), (5, 8), (4, 5)], seed=2)
    method = make(subject, **options)
    with method.gates() as gates:
        method.readouts = method._build(gates.stream(subject.train, 10**9), 7)
    for readout in method.readouts:
        readout.start = 0.3
        readout.network.layers[3].weight.data.mul_(3)
    return method, graphs


def test_kl_equals_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, messages, mean = (torch.randn(*shape, generator=draw).double() for shape in ((9,), (9, 5), (5,)))
    std = torch.rand(5, generator=draw).double() + 0.1
    z = logits.sigmoid()[:, None]
    expected = kl_divergence(Normal(z * messages + (1 - z) * mean, (1 - z) * std), Normal(mean, std)).mean(1)
    assert torch.allclose(
        bottleneck.bottleneck_kl(logits, bottleneck.squared_scores(messages, mean, std)), expected, rtol=0, atol=1e-12
    )


def test_kl_is_nothing_for_closed_gates_and_finite_for_open_ones() -> None:
    messages, mean, std = torch.ones(3, 2), torch.zeros(2), torch.ones(2)
    squared = bottleneck.squared_scores(messages, mean, std)
    kl = bottleneck.bottleneck_kl(torch.tensor([-40.0, 0.0, 60.0]), squared)
    assert float(kl[0]) == pytest.approx(0, abs=1e-12)
    assert float(kl[1]) == pytest.approx(0.693147 + (0.25 + 0.25 - 1) / 2, abs=1e-5)
    assert float(kl[2]) == pytest.approx(60 + (0 + 1 - 1) / 2)  # 1 - z rounds to 0


@pytest.mark.parametrize("released", [False, True])
def test_statistics_are_over_all_training_messages_by_layer_and_dimension(released: bool) -> None:
    subject, graphs = contract(2, [(3, 4), (4, 7), (3, 5), (5, 8)], seed=2)
    _, train = contract(2, [(4, 6), (5, 9), (3, 5)], seed=6)
    method = make(replace(subject, train=train), released_variant=released, smallest_std=0.2, steps=1)
    method.fit()
    for k, readout in enumerate(method.readouts):
        with torch.no_grad():
            m = torch.cat([plain_messages(subject.model, one(train, g))[k][1] for g in range(train.num_graphs)])
        mean = m.sum(0) / len(m)
        variance = ((m - mean) ** 2).sum(0) / len(m)
        spread = variance if released else variance.sqrt()
        assert torch.allclose(readout.mean, mean, rtol=0, atol=1e-12)
        assert torch.allclose(readout.std, spread.clamp(min=0.2), rtol=0, atol=1e-12)
        assert (spread > 0.2).any()
    attribution = method.attribute(graphs)
    for b, readout in zip(attribution.baselines, method.readouts, strict=True):
        assert torch.equal(b, readout.mean)


def test_the_floor_of_the_deviation() -> None:
    """A dimension that is always the same has the smallest deviation allowed, in either variant."""
    subject, _ = contract(1, [(3, 4), (4, 7)], seed=2)
    subject.model.layers[0].weight.data[:, :, 2] = 0  # type: ignore[index, union-attr]
    for released in (False, True):
        method = make(subject, released_variant=released, steps=1, smallest_std=0.03)
        method.fit()
        (readout,) = method.readouts
        assert float(readout.std[2]) == pytest.approx(0.03)
        assert float(readout.mean[2]) == 0
        assert (readout.std[[0, 1, 3, 4, 5]] > 0.03).all()


def plain_objective(method: Any, graphs: GraphBatch, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the mean loss (or excess of D*) and the mean KL, graph by graph, with noise mixed in as it is told."""
    model, released = method.subject.model, method.config.released_variant
    noise = [torch.randn((graphs.num_edges, 6), generator=draws, dtype=torch.double) for _ in method.readouts]
    losses, information = [], []
    for g in range(graphs.num_graphs):
        graph, edges = one(graphs, g), graphs.edges_of(torch.tensor([g]))
        recorded = plain_messages(model, graph)
        h, kl = model.embed(graph["x"]), []
        reference = plain_logits(model, graph, torch.ones(1, len(model.layers), graph.num_edges).double())[0]
        for k, (layer, readout, (q, m)) in enumerate(zip(model.layers, method.readouts, recorded, strict=True)):
            w1, norm, _, w2 = readout.network.layers
            hidden = F.layer_norm(q @ w1.weight.T + w1.bias, (len(w1.bias),), norm.weight, norm.bias).relu()
            z = torch.sigmoid(hidden @ w2.weight.T + w2.bias + readout.start)  # (E, 1)
            e = readout.mean + readout.std * noise[k][edges]
            normal = Normal(z * m + (1 - z) * readout.mean, (1 - z) * readout.std)
            kl.append(kl_divergence(normal, Normal(readout.mean, readout.std)).mean())
            messages = torch.einsum("eh,ehd->ed", h[graph.edge_index[0]], layer.weight[graph["edge_type"]])
            messages = z * messages + (1 - z) * e
            if released:
                messages = z * messages + (1 - z) * e
            h = torch.zeros_like(h).index_add(0, graph.edge_index[1], messages) + h @ layer.root + layer.bias
            h = h.tanh()
        logits = model.readout(h.sum(0))
        p = reference.softmax(0)
        divergence = (p * (p.log() - logits.log_softmax(0))).sum()
        excess = torch.clamp(divergence - method.config.tolerance, min=0)
        losses.append(excess if released else -logits.log_softmax(0)[reference.argmax()])
        information.append(torch.stack(kl).mean())
    return torch.stack(losses).mean(), torch.stack(information).mean()


@pytest.mark.parametrize("released", [False, True])
def test_objective_against_a_plain_loop(released: bool) -> None:
    """The released variant mixes the noise in twice: z (z m + (1 - z) e) + (1 - z) e."""
    method, graphs = prepared(released_variant=released, tolerance=0.01)
    with method.gates() as gates:
        kept, information = method._objective(gates.record(graphs), generator("draws"))
    expected, expected_information = plain_objective(method, graphs, generator("draws"))
    assert float(kept.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
    assert float(information.detach()) == pytest.approx(float(expected_information.detach()), abs=1e-10)
    assert float(kept.detach()) > 0.01


def test_the_released_variants_constraint_is_met_within_the_tolerance() -> None:
    method, graphs = prepared(released_variant=True, tolerance=50.0)
    with method.gates() as gates:
        kept, information = method._objective(gates.record(graphs), generator("draws"))
    assert float(kept.detach()) == 0
    assert float(information.detach()) > 0


@pytest.mark.parametrize("released", [False, True])
def test_training_steps_against_a_plain_loop(released: bool) -> None:
    """Three steps: loss + weight * KL; or KL + softplus(multiplier) * excess, the multiplier by RMSProp upwards."""
    subject, graphs = contract(2, [(3, 4), (4, 7), (3, 5), (5, 8), (4, 5)], seed=2)
    options = {"steps": 3, "batch_size": 3, "learning_rate": 0.05, "gate_start": 0.5, "weight": 0.7, "tolerance": 0.0}
    method = make(subject, **options, released_variant=released)
    method.fit()
    seed = derive("information-bottleneck", 4)
    plain = make(subject, **options, released_variant=released)
    with plain.gates() as gates:
        plain.readouts = plain._build(gates.stream(graphs, 10**9), seed)
    parameters = [p for readout in plain.readouts for p in readout.parameters()]
    before = [p.detach().clone() for p in parameters]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    raw, square, mean = torch.zeros((), dtype=torch.double), 0.0, 0.0
    shuffle, draws = generator("batches", seed), generator("noise", seed)
    batches = [*graphs.minibatches(3, shuffle), *graphs.minibatches(3, shuffle)][:3]
    for t, (_, batch) in enumerate(batches, start=1):
        kept, information = plain_objective(plain, batch, draws)
        loss = information + F.softplus(raw) * kept if released else kept + 0.7 * information
        gradients = torch.autograd.grad(loss, parameters)
        slope = float(kept.detach()) * float(raw.sigmoid())
        square, mean = 0.99 * square + 0.01 * slope**2, 0.99 * mean + 0.01 * slope
        raw = raw + 0.01 * slope / ((square - mean**2) ** 0.5 + 1e-8)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p -= 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    ours = [p for readout in method.readouts for p in readout.parameters()]
    for a, b, start in zip(ours, parameters, before, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)
        assert not torch.allclose(a, start, rtol=0, atol=1e-3)


def test_scores_are_the_gates_of_the_unmasked_pass() -> None:
    method, graphs = prepared()
    scores = method.attribute(graphs).scores
    for g in range(graphs.num_graphs):
        edges = graphs.edges_of(torch.tensor([g]))
        with torch.no_grad():
            for k, (q, _) in enumerate(plain_messages(method.subject.model, one(graphs, g))):
                expected = (method.readouts[k].network.layers(q)[:, 0] + 0.3).sigmoid()
                assert torch.allclose(scores[k, edges], expected, rtol=0, atol=1e-12)
    assert scores.std() > 0.05


class TypeZero(MessagePassing):
    """Messages (sign of the source, whether the type is 0), of which the aggregation drops those of other types."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=x, edge_type=edge_type)
        return out

    def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:
        return torch.stack([x_j[:, 0].sign(), (edge_type == 0).to(x_j.dtype)], dim=-1)

    def aggregate(self, inputs: Tensor, index: Tensor, edge_type: Tensor, dim_size: int) -> Tensor:
        return inputs.new_zeros(dim_size, 2).index_add(0, index, inputs * (edge_type == 0)[:, None])


class Balance(GraphModel):
    """Do positive messages of type 0 outnumber the negative ones?"""

    def __init__(self) -> None:
        super().__init__()
        self.layer = TypeZero()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.layer(graphs["x"], graphs.edge_index, graphs["edge_type"])[:, 0]
        total = h.new_zeros(graphs.num_graphs).index_add(0, graphs.batch, h)
        return torch.stack([torch.zeros_like(total), 6 * total - 3], dim=-1)


@pytest.mark.parametrize("released", [False, True])
def test_finds_the_edges_that_matter(released: bool) -> None:
    """Only edges of type 0 carry anything: their gates stay wider open than all others."""
    graphs = random_graphs(100, "check")
    subject = Subject(Balance(), GraphClassification(), random_graphs(400, "many"), graphs, 1)
    options = {"steps": 300, "learning_rate": 0.02, "weight": 0.3, "gate_start": 2.0, "hidden": 8}
    method = make(subject, **options, released_variant=released)
    method.fit()
    scores, truth = method.attribute(graphs).scores[0], graphs["edge_type"] == 0
    assert float(scores[truth].min()) > float(scores[~truth].max()) + 0.3


@pytest.mark.parametrize(
    ("tolerance", "max_changed", "first", "served"),
    [(1e6, 1.0, True, True), (1e6, 0.0, False, True), (0.1, 1.0, False, True), (1e-9, 1.0, False, False)],
)
def test_the_largest_weight_is_taken_that_keeps_the_predictions(
    tolerance: float, max_changed: float, first: bool, served: bool
) -> None:
    graphs = random_graphs(100, "check")
    subject = Subject(Balance(), GraphClassification(), random_graphs(400, "many"), graphs, 1)
    options = {"steps": 100, "learning_rate": 0.02, "gate_start": 2.0, "hidden": 8}
    met, found, falling = [], [], []
    for weight in bottleneck.WEIGHTS:
        tried = make(subject, **options, weight=weight)
        tried.fit()
        attribution = tried.attribute(graphs)
        with tried.gates() as gates:
            recording = gates.record(graphs)
            logits = recording.forward(list(attribution.scores), attribution.baselines)
        p, q = recording.logits.log_softmax(1), logits.log_softmax(1)
        divergence = float((p.exp() * (p - q)).sum(1).mean())
        changed = float((recording.logits.argmax(1) != logits.argmax(1)).double().mean())
        falling.append(tried.figures.pop("unsettled"))
        assert tried.figures == pytest.approx({"divergence": divergence, "changed": changed})
        met.append(divergence <= tolerance and changed <= max_changed)
        found.append((weight, attribution.scores))
    method = make(subject, **options, tolerance=tolerance, max_changed=max_changed)
    method.fit()
    place = met.index(True) if any(met) else -1
    weight, scores = found[place]
    assert method.figures["weight"] == weight
    assert method.figures["unsettled"] == (not any(met) or falling[place])
    torch.testing.assert_close(method.attribute(graphs).scores, scores)
    assert (weight == 10.0, weight == 0.1 and not any(met)) == (first, not served)


def test_training_graphs_without_messages_do_no_harm() -> None:
    """The mean KL of such a graph is 0 / 0, but no gradient comes from it."""
    subject, graphs = contract(1, [(3, 4), (4, 0), (5, 6)], seed=2)
    method = make(subject, steps=2)
    method.fit()
    assert torch.isfinite(method.attribute(graphs).scores).all()


@pytest.mark.parametrize("kind", ["gaussian", "mean", "zero"])
def test_what_is_mixed_in_and_the_own_baseline(kind: str) -> None:
    subject = contract_subject(2)
    method_kind = METHODS["information-bottleneck"]
    method: Any = method_kind(method_kind.Config(steps=1, baseline=kind), subject=subject)
    method.fit()
    mean, std = torch.arange(6).double(), torch.full((6,), 2.0).double()
    with method.gates() as gates:
        call = gates.record(random_graphs(400, "many")).calls[0]
    readout = bottleneck.MessageReadout(call, 5, 0.0, mean, std)
    mixed = method._baseline(readout, call, torch.Generator().manual_seed(0))
    assert mixed.kind == ("per edge" if kind == "gaussian" else "shared")
    if kind == "gaussian":
        assert mixed.values.shape == call.flat_messages().shape
        assert torch.allclose(mixed.values.mean(0), mean, atol=0.2)
        assert torch.allclose(mixed.values.std(0), std, atol=0.2)
    else:
        assert torch.equal(mixed.values, mean if kind == "mean" else torch.zeros(6).double())
    own = method.attribute(subject.validation).baselines
    assert own is not None
    assert all(bool((b == 0).all()) == (kind == "zero") for b in own)


@pytest.mark.parametrize("most", range(6))
def test_the_right_weight_is_found_in_three_trainings_at_most(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, _ = contract(2, [(3, 4), (4, 7), (3, 5), (5, 8), (4, 5)], seed=2)
    method, tried = make(subject), list[float]()

    def train(recordings: Any, weight: float, seed: int) -> Tensor:
        tried.append(weight)
        return torch.zeros(20)

    def judge(*_: Any) -> Any:
        return bottleneck.Verdict(0.0, 0.0, 0.0 if tried[-1] <= [*bottleneck.WEIGHTS, 0.0][most] else 2.0)

    monkeypatch.setattr(method, "_train", train)
    monkeypatch.setattr(method, "_judge", judge)
    method.fit()
    assert method.figures["weight"] == bottleneck.WEIGHTS[min(most, 4)]
    assert len(tried) == len(set(tried)) <= 3


@pytest.mark.parametrize("most_bytes", [0, 3000, 10**9])
def test_recordings_are_the_same_whether_they_are_kept_or_made_anew(most_bytes: int) -> None:
    method, graphs = prepared()
    with method.gates() as gates:
        given = repeated.Repeated(gates, lambda: (batch for _, batch in graphs.minibatches(2)), most_bytes)
        first, passes = list(given), gates.forward_passes
        again = list(given)
        expected = [gates.record(batch) for _, batch in graphs.minibatches(2)]
        made = gates.forward_passes - passes - len(expected)
    assert len(first) == len(again) == len(expected) == 3
    for one_, two, three in zip(first, again, expected, strict=True):
        for recording in (one_, two):
            assert torch.equal(recording.logits, three.logits)
            for call, other in zip(recording.calls, three.calls, strict=True):
                assert torch.equal(call.messages, other.messages)
    assert {0: made == 3, 3000: 0 < made < 3, 10**9: made == 0}[most_bytes]


def test_smaller_passes_keep_fewer_recordings() -> None:
    whole = repeated.kept_bytes(MAX_EDGES)
    assert [repeated.kept_bytes(MAX_EDGES * 10), repeated.kept_bytes(MAX_EDGES // 4)] == [whole, whole // 4]
