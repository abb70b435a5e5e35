"""Non-amortized GraphMask against a slow plain implementation, one graph at a time, optimisers included."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_erasure import contract, one, plain_logits
from torch import Tensor

from attribench.base.seeds import derive
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete
from attribench.model.noise import EdgeNoise
from attribench.plugins.configs import make_config
from attribench.plugins.method import Attribution, Subject
from attribench.plugins.registry import METHODS

KIND = METHODS["graphmask-nonamortized"]
SIZES = [(3, 4), (4, 7), (3, 5), (5, 8)]
SETTINGS: dict[str, Any] = {
    "steps": 24, "check_every": 5, "learning_rate": 0.25, "multiplier_learning_rate": 0.15, "multiplier_start": 1.0,
    "sparsity_weight": 6.0, "tolerance": 0.05, "temperature": 0.4, "stretch_low": -0.3, "stretch_high": 1.1,
    "location_bias": 1.0,
}  # fmt: skip


def make(subject: Subject, seed: int = 3, **options: Any) -> Any:
    return KIND(make_config(KIND.name, KIND.Config, options), subject=subject, seed=seed)


class Adam:
    """Kingma & Ba 2015, Algorithm 1."""

    def __init__(self, rate: float) -> None:
        self.rate, self.t, self.m, self.v = rate, 0, 0.0, 0.0

    def step(self, value: Any, gradient: Any) -> Any:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return value - self.rate * m / (v**0.5 + 1e-8)


class CentredRMSPropAscent:
    """Hinton's RMSProp over the gradient's deviation (Graves 2013), upwards."""

    def __init__(self, rate: float) -> None:
        self.rate, self.square, self.mean = rate, 0.0, 0.0

    def step(self, value: float, gradient: float) -> float:
        self.square = 0.99 * self.square + 0.01 * gradient**2
        self.mean = 0.99 * self.mean + 0.01 * gradient
        return value + self.rate * gradient / (math.sqrt(self.square - self.mean**2) + 1e-8)


def kl(reference: Tensor, logits: Tensor) -> Tensor:
    p = reference.softmax(-1)
    return (p * (p.log() - logits.log_softmax(-1))).sum()


class PlainGraph:
    """One graph: its locations, multiplier, and the best mask so far. Nothing in it knows of other graphs."""

    def __init__(self, method: Any, graph: GraphBatch) -> None:
        self.model, self.graph, self.config = method.subject.model, graph, method.config
        self.shape = (method.subject.num_layers, graph.num_edges)
        self.noise = EdgeNoise(graph, self.shape[0], derive("nonamortized", method.seed))
        self.location = torch.full(self.shape, self.config.location_bias, dtype=torch.double)
        self.raw = self.config.multiplier_start
        self.adam = Adam(self.config.learning_rate)
        self.rmsprop = CentredRMSPropAscent(self.config.multiplier_learning_rate)
        with torch.no_grad():
            self.reference = plain_logits(self.model, graph, torch.ones(1, *self.shape).double())[0]
        self.scores = torch.ones(self.shape, dtype=torch.double)
        self.mask = torch.ones(self.shape, dtype=torch.bool)
        self.baselines = [torch.zeros(6, dtype=torch.double)] * self.shape[0]
        self.kept = math.inf

    def stretch(self, s: Tensor) -> Tensor:
        low, high = float(self.config.stretch_low), float(self.config.stretch_high)
        return (s * (high - low) + low).clamp(0, 1)

    def open_probability(self, location: Tensor) -> Tensor:
        """sigmoid(gamma - tau log(-l / r)), Eq. 11."""
        c = self.config
        return torch.sigmoid(location - c.temperature * math.log(-c.stretch_low / c.stretch_high))

    @torch.no_grad()
    def check(self, baselines: list[Tensor]) -> None:
        mask = self.stretch(torch.sigmoid(self.location / self.config.temperature)) > 0.5
        logits = plain_logits(self.model, self.graph, mask[None].double(), baselines)[0]
        stays = int(logits.argmax()) == int(self.reference.argmax()) or self.config.max_changed == 1
        if kl(self.reference, logits) <= self.config.tolerance and stays and int(mask.sum()) < self.kept:
            self.kept, self.mask, self.scores = int(mask.sum()), mask, self.open_probability(self.location)
            self.baselines = [b.detach().clone().expand(6) for b in baselines]

    def gradients(self, step: int, baselines: list[Tensor]) -> tuple[Tensor, float, list[Tensor]]:
        location = self.location.clone().requires_grad_()
        learned = [b.clone().requires_grad_() for b in baselines]
        u = self.noise.uniform(step, torch.float64)
        soft = self.stretch(torch.sigmoid((torch.log(u / (1 - u)) + location) / self.config.temperature))
        z = (soft > 0.5).double() + soft - soft.detach()
        excess = kl(self.reference, plain_logits(self.model, self.graph, z[None], learned)[0]) - self.config.tolerance
        if self.config.relu:
            excess = excess.clamp(min=0)
        multiplier = math.log1p(math.exp(self.raw))
        loss = self.config.sparsity_weight * self.open_probability(location).mean() + multiplier * excess
        gradient, *rest = torch.autograd.grad(loss, [location, *learned])
        return gradient, float(excess.detach()) / (1 + math.exp(-self.raw)), rest

    def step(self, gradient: Tensor, raw_gradient: float) -> None:
        self.location = self.adam.step(self.location, gradient)
        self.raw = min(30.0, max(-2.0, self.rmsprop.step(self.raw, raw_gradient)))


def optimise(plain: list[PlainGraph], baselines: list[list[Tensor]], learn: bool) -> list[list[Tensor]]:
    """Optimise graphs one after the other in every step; graphs that are given the same list share its baselines."""
    config = plain[0].config
    adams = [[Adam(config.learning_rate) for _ in b] for b in baselines]
    shared = len(baselines) < len(plain)
    for step in range(config.steps + 1):
        own = baselines * len(plain) if shared else baselines
        if step % config.check_every == 0 or step == config.steps:
            for graph, b in zip(plain, own, strict=True):
                graph.check(b)
        if step == config.steps:
            break
        gradients = [graph.gradients(step, b) for graph, b in zip(plain, own, strict=True)]
        for graph, (location, raw, _) in zip(plain, gradients, strict=True):
            graph.step(location, raw)
        if learn:
            rows = [rest for _, _, rest in gradients]
            totals = [[torch.stack(x).sum(0) for x in zip(*rows, strict=True)]] if shared else rows
            baselines = [
                [adam.step(b, g) for adam, b, g in zip(*group, strict=True)]
                for group in zip(adams, baselines, totals, strict=True)
            ]
    return baselines


def assert_equal(subject: Subject, graphs: GraphBatch, attribution: Attribution, plain: list[PlainGraph]) -> None:
    assert attribution.hard_mask is not None
    assert attribution.baselines is not None
    for g, graph in enumerate(plain):
        edges = graphs.edges_of(torch.tensor([g]))
        assert torch.equal(attribution.hard_mask[:, edges], graph.mask)
        assert torch.allclose(attribution.scores[:, edges], graph.scores, rtol=0, atol=1e-8)
        for k in range(subject.num_layers):
            assert torch.allclose(attribution.baselines[k][g], graph.baselines[k], rtol=0, atol=1e-8)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("kind", "width"), [("none", 0), ("scalar", 1), ("vector", 6)])
def test_against_a_plain_loop_over_graphs(kind: str, width: int, relu: bool) -> None:
    subject, graphs = contract(2, SIZES, seed=2)
    method = make(subject, **SETTINGS, baseline=kind, relu=relu)
    attribution = method.attribute(graphs)
    plain = []
    for g in range(graphs.num_graphs):
        plain.append(PlainGraph(method, one(graphs, g)))
        optimise(plain[-1:], [[torch.zeros(max(1, width), dtype=torch.double) for _ in range(2)]], learn=width > 0)
    assert_equal(subject, graphs, attribution, plain)
    kept = [graph.kept / graph.mask.numel() for graph in plain]
    assert min(kept) < 0.8  # some gates were closed,
    assert len(set(kept)) > 1  # not alike for all graphs,
    assert len({round(graph.raw, 3) for graph in plain}) == 4  # and each graph has its own multiplier
    assert attribution.baselines is not None
    spread = [float((b - b[:, :1]).abs().max()) for b in attribution.baselines]
    largest = [float(b.abs().max()) for b in attribution.baselines]
    assert all((x > 0) == (kind == "vector") for x in spread)
    assert all((x > 0) == (kind != "none") for x in largest)


def test_training_baselines_against_a_plain_loop_over_graphs() -> None:
    """Learned by the sum of the first training graphs' losses, then fixed."""
    subject, graphs = contract(2, SIZES, seed=2)
    _, train = contract(2, [(4, 6), (3, 4), (4, 7), (5, 5)], seed=5)
    subject = replace(subject, train=train)
    method = make(subject, **SETTINGS, baseline="training", training_graphs=3)
    method.fit()
    zeros = [torch.zeros(6, dtype=torch.double) for _ in range(2)]
    (shared,) = optimise([PlainGraph(method, one(train, g)) for g in range(3)], [zeros], learn=True)
    for ours, theirs in zip(method.shared, shared, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)
        assert float(ours.abs().min()) > 0
    attribution = method.attribute(graphs)
    plain = [PlainGraph(method, one(graphs, g)) for g in range(graphs.num_graphs)]
    optimise(plain, [shared], learn=False)
    assert_equal(subject, graphs, attribution, plain)


def test_training_baselines_are_fixed_and_shared() -> None:
    subject, graphs = contract(2, SIZES, seed=2)
    method = make(subject, **SETTINGS, baseline="training")
    method.fit()
    before = [b.clone() for b in method.shared]
    for batch in (graphs, one(graphs, 2)):
        attribution = method.attribute(batch)
        for k, b in enumerate(attribution.baselines):
            assert torch.equal(method.shared[k], before[k])
            assert torch.equal(b, before[k].expand(batch.num_graphs, -1))
            assert not b.requires_grad


@pytest.mark.parametrize("kind", ["none", "scalar", "vector", "training"])
def test_a_batch_equals_the_loop_over_its_graphs(kind: str) -> None:
    subject, graphs = contract(3, [(3, 4), (5, 9), (3, 5), (4, 7), (6, 9), (4, 6)], seed=1)
    method = make(subject, **{**SETTINGS, "steps": 40}, baseline=kind)
    method.fit()
    whole = method.attribute(graphs)
    assert 0 < float(whole.hard_mask.double().mean()) < 1
    for g in range(graphs.num_graphs):
        index = torch.tensor([g])
        alone, expected = method.attribute(one(graphs, g)), whole.select(graphs, index)
        assert torch.equal(alone.hard_mask, expected.hard_mask)
        assert torch.allclose(alone.scores, expected.scores, rtol=0, atol=1e-8)
        for ours, theirs in zip(alone.baselines, expected.baselines, strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["none", "scalar", "vector", "training"])
@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.3])
def test_the_chosen_mask_is_within_tolerance_with_its_own_baselines(kind: str, tolerance: float) -> None:
    sizes = [(3, 4), (5, 9), (3, 5), (4, 7), (6, 9), (4, 6), (3, 3), (5, 8)]
    subject, graphs = contract(1, sizes, seed=4)
    options = {**SETTINGS, "steps": 80, "check_every": 3, "tolerance": tolerance, "baseline": kind}
    method = make(subject, **options)
    method.fit()
    attribution = method.attribute(graphs)
    with torch.no_grad():
        for g in range(graphs.num_graphs):
            part = attribution.select(graphs, torch.tensor([g]))
            gates = torch.stack([torch.ones_like(part.scores), part.hard_mask.double()])
            full, masked = plain_logits(subject.model, one(graphs, g), gates, [b[0] for b in part.baselines])
            assert float(kl(full, masked)) <= tolerance + 1e-12
    assert (float(attribution.hard_mask.double().mean()) < 0.9) == (tolerance > 0)


def test_falls_back_to_all_open_where_no_check_was_within_tolerance() -> None:
    """Gates that start closed and hardly move: a graph whose closed gates are too far off retains everything."""
    subject, graphs = contract(1, [(3, 4), (5, 9), (3, 5), (4, 7), (6, 9), (4, 6)], seed=4)
    with torch.no_grad():
        changes = []
        for g in range(graphs.num_graphs):
            graph = one(graphs, g)
            gates = torch.stack([torch.ones(1, graph.num_edges), torch.zeros(1, graph.num_edges)]).double()
            changes.append(float(kl(*plain_logits(subject.model, graph, gates))))
    tolerance = sorted(changes)[2] + 1e-6
    method = make(subject, steps=4, check_every=2, location_bias=-3, baseline="scalar", tolerance=tolerance)
    attribution = method.attribute(graphs)
    closed = HardConcrete().probability_nonzero(torch.tensor(-3.0))
    for g, change in enumerate(changes):
        part = attribution.select(graphs, torch.tensor([g]))
        if change <= tolerance:
            assert not part.hard_mask.any()
            assert torch.allclose(part.scores, closed.double(), atol=0.01)
        else:
            assert part.hard_mask.all()
            assert (part.scores == 1).all()
            assert float(part.baselines[0].abs().max()) == 0
    assert sum(change <= tolerance for change in changes) == 3


def test_the_seed_draws_the_noise() -> None:
    subject, graphs = contract(1, SIZES, seed=2)
    first, again, other = (make(subject, seed, **SETTINGS).attribute(graphs).scores for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
