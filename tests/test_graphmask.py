"""Amortized GraphMask: its objective against a plain loop, its constraint, its updates, and what it finds."""

import importlib
import math
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_methods import SumOfMessages
from torch import Tensor
from torch.nn import functional as F

from attribench.base.errors import Infeasible, UserError
from attribench.checking.methods import contract_subject, random_graphs
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache
from attribench.scoring.gold import by_layer

KIND = METHODS["graphmask"]
UNCONSTRAINED: dict[str, Any] = {"tolerance": 1e6, "max_changed": 1.0, "max_retained": 1.0}


def module(name: str) -> Any:
    return importlib.import_module(f"attribench.methods.{name}")


def make(subject: Subject, seed: int = 0, **options: Any) -> Any:
    method: Any = KIND(make_config("graphmask", KIND.Config, options), subject=subject, seed=seed)
    method.distribution = HardConcrete()
    method.constraint = module("_constraint").Constraint(
        method.config.tolerance, method.config.max_changed, method.config.margin
    )
    return method


class Spy:
    """An update with the paper's gates, or those of ``kind``, that keeps what it is given and changes nothing."""

    def __init__(self, kind: str = "Lagrangian") -> None:
        self.steps: list[tuple[float, Tensor, Tensor]] = []
        self.kind = getattr(module("_updates"), kind)

    def gates(self, *arguments: Any) -> Tensor:
        gates: Tensor = self.kind.gates(self.kind, *arguments)
        return gates

    def sparsity(self, *arguments: Any) -> Tensor:
        sparsity: Tensor = self.kind.sparsity(self.kind, *arguments)
        return sparsity

    def step(self, penalty: Tensor, divergence: Tensor, calm: Any) -> None:
        self.steps.append((float(penalty.detach()), divergence.detach(), calm(0.5).detach()))


def test_the_objective_against_a_plain_loop() -> None:
    """One evaluation of Eq. 5, 7, 11 and 12 graph by graph and edge by edge, for the two upper of three layers."""
    subject, graphs = contract_subject(3), random_graphs(4, "objective")
    method, spy = make(subject, seed=1), Spy()
    with method.gates() as gates:
        recording = gates.record(graphs)
        method.probe = module("_gate_networks").Probe(
            [recording], 5, 0.4, 9.0, 1
        )  # away from open, so that draws decide
        with torch.no_grad():
            for network in method.probe.networks:
                network.relative_baseline.normal_(generator=torch.Generator().manual_seed(0))
        method._step(spy, recording, 1, torch.Generator().manual_seed(9))
        drawn = torch.rand(2, graphs.num_edges, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        uniform = torch.cat([torch.zeros_like(drawn[:1]), drawn])
        z, calm = torch.ones(2, 3, graphs.num_edges).double()
        nonzero = torch.zeros(3, graphs.num_edges).double()
        for k in (1, 2):
            network, call = method.probe.networks[k], recording.calls[k]
            w1, norm, _, w2 = network.network.layers
            read = call.inputs()
            for e in range(graphs.num_edges):
                u, v = graphs.edge_index[:, e]
                q = torch.cat([call.h_source[u], call.h_target[v], call.messages[e]])
                q = (q - read.mean(0)) / read.std(0, correction=0)
                hidden = F.layer_norm(w1.weight @ q + w1.bias, (len(w1.bias),), norm.weight, norm.bias).relu()
                location = float((w2.weight[0] @ hidden + w2.bias[0]).detach()) + 0.4
                logit = float((uniform[k, e] / (1 - uniform[k, e])).log())
                for gates_of, scale in ((z, 1.0), (calm, 0.5)):
                    s = 1 / (1 + math.exp(-(scale * logit + location) * 3))
                    gates_of[k, e] = float(min(1, max(0, s * 1.2 - 0.2)) > 0.5)
                nonzero[k, e] = 1 / (1 + 0.2 ** (1 / 3) * math.exp(-location))
        assert 0 < z[1:].mean() < 1
        assert not torch.equal(z, calm)
        penalties, divergences = [], torch.zeros(2, graphs.num_graphs).double()
        for g in range(graphs.num_graphs):
            edges, one = graphs.edge_graph == g, torch.tensor([g])
            penalties.append(float(nonzero[1:, edges].mean()))
            alone = gates.record(graphs.select(one))
            for row, gates_of in enumerate((z, calm)):
                logits = alone.forward(gates_of[:, edges], method.probe.baselines())[0].detach()
                p, log_p = alone.logits[0].softmax(0), alone.logits[0].log_softmax(0)
                divergences[row, g] = (p * (log_p - logits.log_softmax(0))).sum()
    ((penalty, divergence, calmer),) = spy.steps
    assert penalty == pytest.approx(sum(penalties) / graphs.num_graphs, abs=1e-9)
    assert torch.allclose(divergence, divergences[0], rtol=0, atol=1e-9)
    assert torch.allclose(calmer, divergences[1], rtol=0, atol=1e-9)


def test_both_updates_pass_through_the_same_gates() -> None:
    """Of the same draws: only their gradients differ, and the controlled penalty is the mean location."""
    subject, graphs = contract_subject(2), random_graphs(4, "objective")
    method = make(subject, seed=1)
    steps = []
    with method.gates() as gates:
        recording = gates.record(graphs)
        method.probe = module("_gate_networks").Probe([recording], 5, 0.4, 9.0, 1)
        for kind in ("Lagrangian", "Controlled"):
            spy = Spy(kind)
            method._step(spy, recording, 0, torch.Generator().manual_seed(9))
            steps += spy.steps
        locations = method.probe(recording).mean(0)
        means = [locations[graphs.edge_graph == g].mean() for g in range(graphs.num_graphs)]
    (_, divergence, calm), (penalty, same, calm_too) = steps
    assert torch.equal(divergence, same)
    assert torch.equal(calm, calm_too)
    assert penalty == pytest.approx(float(sum(means).detach()) / graphs.num_graphs, abs=1e-9)


def test_the_constraint_by_hand() -> None:
    constraint = module("_constraint").Constraint(0.1, 0.25, 2.0)
    divergence = torch.tensor([0.0, 0.02, 0.02, 0.04])
    changes = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 0, 5, 1])
    verdict = constraint.judge((divergence, *changes))
    assert (verdict.divergence, verdict.changed) == (pytest.approx(0.02), 0.25)
    by_divergence = (0.02 + 2 * math.sqrt(0.0002) / 2) / 0.1
    by_change = (0.25 + 2 * math.sqrt(1 / 4 * 3 / 4 / 8)) / 0.25
    assert verdict.strain == pytest.approx(max(by_divergence, by_change))
    assert not verdict.feasible
    lenient = replace(constraint, max_changed=1.0, margin=0.0).judge((divergence, *changes))
    assert lenient.strain == pytest.approx(0.25)  # all may change: two of eight did
    tail = torch.tensor([0.0, 0.02, 0.02, 9.96])
    assert constraint.judge((tail, *changes)).divergence == pytest.approx(2.5)
    error = torch.tensor([0.0, 0.02, 0.02, 1.0]).std(correction=0) / 2  # as if it were 1 nat
    assert constraint.judge((tail, *changes)).strain == pytest.approx(float(2.5 + 2 * error) / 0.1)
    assert constraint.met(divergence, *changes).tolist() == [True, True, True, False]  # of five one may change
    assert replace(constraint, max_changed=1.0).met(divergence * 3, *changes).tolist() == [True, True, True, False]


def test_a_few_graphs_of_which_none_changes_are_feasible_and_all_may_change_where_that_is_allowed() -> None:
    constraint = module("_constraint").Constraint(0.1, 0.02, 2.0)
    none, all_ = torch.zeros(20), torch.ones(20)
    one = torch.eye(20)[0]
    assert constraint.judge((none, none, all_)).strain == 0
    assert not constraint.judge((none, one, all_)).feasible
    for changed in (one, all_ - one, all_):
        assert replace(constraint, max_changed=1.0).judge((none, changed, all_)).feasible


def test_a_small_sample_that_is_unlike_the_others_is_not_outvoted() -> None:
    constraint = module("_constraint").Constraint(0.1, 0.02, 3.0)
    none, few, many = torch.zeros(1000), torch.zeros(40), torch.ones(1000)
    unlike = torch.arange(40) < 7  # of 1,040 that is 0.7%
    whole = constraint.judge((none, none, many), (few, few, many[:40]))
    assert (whole.strain, whole.alone) == (0, None)
    verdict = constraint.judge((few, unlike.float(), many[:40]), (none, none, many))
    assert (verdict.changed, verdict.alone, verdict.feasible) == (7 / 40, 0, False)
    assert verdict.strain == pytest.approx((7 / 40 - 3 * math.sqrt(0.02 * 0.98 / 40)) / 0.02)
    far = torch.full((40,), 0.5)
    verdict = constraint.judge((none, none, many), (far, few, many[:40]))
    assert (verdict.divergence, verdict.alone, verdict.feasible) == (0.5, 1, False)
    # What chance explains is none: one of 40 that changes, or D* that is high in one graph of them.
    assert constraint.judge((few, (torch.arange(40) < 1).float(), many[:40]), (none, none, many)).feasible
    assert constraint.judge(((torch.arange(40) < 1) * 4.5, few, many[:40]), (none, none, many)).feasible


def test_the_reason_names_the_sample_that_rules_the_constraint_out() -> None:
    method = make(contract_subject(1))
    verdict = module("_constraint").Verdict(0.01, 0.175, 4.0, 0)
    nearest = module("graphmask").Checkpoint({}, verdict, 0.5, 0.5)
    method.constraint = module("_constraint").Constraint(0.03, 0.02, 3.0)
    assert "has D* 0.01, 17.5% of predictions changed on validation graphs alone, which the others" in method._why(
        nearest
    )


def test_no_graph_is_both_fitted_and_judged() -> None:
    subject = contract_subject(1)
    fitted, held_out = make(subject, held_out=0.25)._split()
    validation, aside = (set(graphs.graph_key.tolist()) for graphs in held_out)
    trained = set(fitted.graph_key.tolist())
    assert validation == set(subject.validation.graph_key.tolist())
    assert len(aside) == subject.train.num_graphs // 4
    assert trained.isdisjoint(aside)
    assert trained | aside == set(subject.train.graph_key.tolist())
    order = subject.train.graph_key.tolist()
    places = sorted(order.index(key) for key in aside)
    assert all(b - a == 4 for a, b in pairwise(places))  # from all parts of them
    whole, only = make(subject, held_out=0.0)._split()
    assert whole is subject.train
    assert only == [subject.validation]


@pytest.mark.parametrize(
    ("update", "stages"), [("controlled", [0] * 15), ("paper", [2] * 5 + [1] * 5 + [0] * 5), ("released", [2] * 5)]
)
def test_the_papers_rule_gates_layers_from_the_top(update: str, stages: list[int]) -> None:
    options: dict[str, Any] = {"steps": 9, "steps_per_layer": 3, "batch_size": 20, "held_out": 0, "check_every": 100}
    method: Any = make(contract_subject(3), **options, update=update)
    step, seen = method._step, []

    def spy(update: Any, recording: Any, lowest: int, noise: torch.Generator) -> None:
        seen.append((lowest, set(recording.graphs.graph_key.tolist())))
        step(update, recording, lowest, noise)

    method._step = spy
    method._train(0)
    assert [lowest for lowest, _ in seen][: len(stages)] == stages
    assert len(seen) == 15
    assert seen[0][1] == seen[1][1]
    assert len(seen[0][1] | seen[2][1]) == 40  # one epoch of 40 graphs is two batches of 20


def test_the_best_probe_is_restored_and_the_constraint_weighed_more() -> None:
    """Closed gates do not open again, so a probe that stays infeasible is given up for the best one."""
    method = make(contract_subject(2), steps=50, steps_per_layer=10, check_every=10, patience=2)
    check, raised = method._check, list[float]()
    found: list[Any] = []

    def judge(*arguments: Any) -> Any:
        """Call every probe infeasible, except the first."""
        now = check(*arguments)
        found.append(replace(now, verdict=replace(now.verdict, strain=2.0 if found else 0.0)))
        return found[-1]

    method._check = judge
    controlled = module("_updates").Controlled
    restart = controlled.restart

    def spy(update: Any) -> None:
        restart(update)
        raised.append(update.log_multiplier())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controlled, "restart", spy)
        best = method._train(0)
    # of the checks after every 10 steps, after two each, until the constraint cannot be weighed more
    assert (method.figures["restored"], method.figures["steps"]) == (2, 60)
    assert raised == [2.0, 3.0]
    assert best is found[0]
    assert all(torch.equal(method.probe.state_dict()[name], value) for name, value in found[0].state.items())


def checkpoint(strain: float, retained: float = 1.0) -> Any:
    kinds = module("graphmask")
    return kinds.Checkpoint({}, kinds.Verdict(0.0, 0.0, strain), retained, retained)


def test_a_probe_that_comes_back_is_waited_for() -> None:
    """It is where its strain falls from what it was four checks before, be it higher than at first."""
    progress = module("graphmask")._Progress(checkpoint(0.0), stop_after=2, patience=12)
    for strain in (2.0, 6.0, 5.8, 5.7, 5.6, 5.5, 5.4, 5.3):
        progress.add(checkpoint(strain))
        assert not progress.lost
    for strain in (5.3,) * 7:  # the first is less than four checks before
        assert not progress.lost
        progress.add(checkpoint(strain))
    assert progress.lost
    assert progress.restore() is progress.best
    for _ in range(15):  # three quarters of what is allowed too much count as much
        progress.add(checkpoint(1.75))
        assert not progress.lost
    progress.add(checkpoint(1.75))
    assert progress.lost


def test_a_probe_is_waited_for_no_longer_than_twice_the_patience() -> None:
    """It falls, and is further beyond the constraint than it comes back."""
    progress = module("graphmask")._Progress(checkpoint(0.0), stop_after=2, patience=12)
    for k in range(23):
        progress.add(checkpoint(9 * 0.97**k))
        assert not progress.lost
    progress.add(checkpoint(2.0))
    assert progress.lost
    progress.restore()
    assert not progress.lost


def test_of_checkpoints_that_are_about_as_sparse_the_least_strained_is_taken() -> None:
    best = min(
        (checkpoint(0.1, 0.9), checkpoint(0.9, 0.5), checkpoint(0.3, 0.501), checkpoint(1.1, 0.2)),
        key=module("graphmask").Checkpoint.rank,
    )
    assert best.retained == 0.501
    assert min((checkpoint(0.1, 0.5), checkpoint(0.9, 0.48)), key=lambda c: c.rank()).retained == 0.48
    assert min((checkpoint(0.1, 0.5), checkpoint(0.9, 0.0)), key=lambda c: c.rank()).retained == 0.0


def test_it_is_settled_when_feasible_probes_get_no_sparser() -> None:
    progress = module("graphmask")._Progress(checkpoint(0.0), stop_after=2, patience=99)
    for strain, retained in ((0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 0.9), (2.0, 0.5), (2.0, 0.5), (0.4, 0.895)):
        progress.add(checkpoint(strain, retained))
        assert not progress.settled
    progress.add(checkpoint(0.5, 0.95))
    assert progress.settled
    assert progress.best.retained == 0.895


def test_it_falls_while_no_checkpoint_is_better_by_enough_to_be_the_best() -> None:
    """Checkpoints within 2 percent are equal; a slow fall that goes on is one all the same."""
    progress = module("graphmask")._Progress(checkpoint(0.0), stop_after=3, patience=99)
    retained = 0.9
    for strain in range(12):
        progress.add(checkpoint(0.1 + strain / 100, retained))
        assert not progress.settled
        retained *= 0.996
    progress.add(checkpoint(0.1, retained))
    assert not progress.settled
    progress.add(checkpoint(0.1, retained))
    assert progress.settled


def test_a_late_fall_is_one_of_the_last_checks_feasible_or_not() -> None:
    progress = module("graphmask")._Progress(checkpoint(0.0), stop_after=99, patience=99)
    for strain, retained, fall in ((0.5, 0.8, 0.2), (2.0, 0.1, 0.2), *[(2.0, 0.1, 0.2)] * 4, (0.5, 0.6, 0.25)):
        progress.add(checkpoint(strain, retained))
        assert progress.late_fall == pytest.approx(fall)


class Weight(torch.nn.Module):
    """A probe of one gate that costs its openness, and whose closing costs D* of ``scale`` times the square."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.gate = torch.nn.Parameter(torch.tensor([1.0]))
        self.baseline = torch.nn.Parameter(torch.zeros(1))

    def gate_parameters(self) -> list[torch.nn.Parameter]:
        return [self.gate]

    def baseline_parameters(self) -> list[torch.nn.Parameter]:
        return [self.baseline]

    def divergence(self) -> Tensor:
        return self.scale * (1 - self.gate).square() + 0 * self.baseline


def rates(gates: float, baselines: float = 1e-4, steps: int = 1) -> Any:
    return module("_updates").Rates(gates, baselines, steps)


def calmer(probe: Weight, value: float) -> Tensor:
    """Return D* of a value, with a gradient of 0 in the baseline."""
    return value + 0 * probe.baseline


def test_the_multiplier_finds_what_is_aimed_at_the_same_way_at_every_scale() -> None:
    """Half the tolerance is aimed at: (1 - gate)^2 = 0.005 where the tolerance is 0.01 of the scale."""
    courses = []
    for scale in (1 / 256, 1.0, 256.0):
        probe = Weight(scale)
        update, course = module("_updates").Controlled(probe, 0.01 * scale, rates(3e-3)), []
        for _ in range(2000):
            update.step(probe.gate.sum(), probe.divergence(), lambda _, probe=probe: probe.divergence())
            course.append(float(probe.gate.detach()))
        courses.append(torch.tensor(course))
    assert torch.allclose(courses[0], courses[1], atol=1e-5)
    assert torch.allclose(courses[2], courses[1], atol=1e-5)
    assert float((1 - courses[1][1000:]).square().mean()) == pytest.approx(0.005, rel=0.1)


def test_graphs_on_which_all_is_well_do_not_outvote_those_that_need_a_gate() -> None:
    """One batch in ten is a hundred times as far from what it should be as the others, and the other way."""
    probe = Weight(1.0)
    update = module("_updates").Controlled(probe, 0.01, rates(1e-2))
    update.step(0 * probe.gate.sum(), 0 * probe.gate, lambda _: calmer(probe, 1.0))  # the first says nothing
    for step in range(200):
        before = float(probe.gate.detach())
        update.step(0 * probe.gate.sum(), probe.gate * (0.01 if step % 10 else -1.0), lambda _: calmer(probe, 1.0))
        assert abs(float(probe.gate.detach()) - before) < 0.05  # no step is as much longer
    assert float(probe.gate.detach()) > 1.2


def test_the_aim_follows_the_strain_on_held_out_graphs_once_it_is_reached() -> None:
    probe = Weight(1.0)
    update = module("_updates").Controlled(probe, 0.2, rates(1e-3))
    aims = []
    for strain in (9.0, 1.21, 1.0, 0.64, 0.0, 0.0, 0.0):
        update.step(probe.gate.sum(), probe.divergence(), lambda _: calmer(probe, update._aim))
        update.heed(strain)
        aims.append(update._aim)
    expected = [0.07, 0.07 / 1.1, 0.07 / 1.1, 0.0875 / 1.1, 0.1, 0.1, 0.1]  # half the tolerance at most
    assert aims == pytest.approx(expected)
    for strain, of_aim in ((9.0, 1.31), (0.5, 0.76)):  # above what is aimed at, and to fall; below, and to rise
        update.step(probe.gate.sum(), probe.divergence(), lambda _, part=of_aim: calmer(probe, part * update._aim))
        update.heed(strain)
        assert update._aim == aims[-1]
    update.step(probe.gate.sum(), probe.divergence(), lambda _: calmer(probe, 1.29 * update._aim))
    update.heed(9.0)
    assert update._aim == pytest.approx(0.7 * aims[-1])


def test_what_is_judged_is_a_running_mean_of_the_parameters() -> None:
    probe = Weight(1.0)
    update = module("_updates").Controlled(probe, 0.01, rates(3e-3))
    mean = None
    for _ in range(50):
        update.step(probe.gate.sum(), probe.divergence(), lambda _: calmer(probe, 0.0))
        now = float(probe.gate.detach())
        mean = now if mean is None else 0.98 * mean + 0.02 * now
    assert float(update.judged().gate.detach()) == pytest.approx(mean, abs=1e-6)
    assert mean != pytest.approx(now, abs=1e-5)
    update.restart()
    assert float(update.judged().gate.detach()) == pytest.approx(now)


def test_a_restart_takes_the_first_aim_again() -> None:
    probe = Weight(1.0)
    update = module("_updates").Controlled(probe, 0.2, rates(1e-3))
    for _ in range(3):
        update.step(probe.gate.sum(), probe.divergence(), lambda _: calmer(probe, update._aim))
        update.heed(9.0)
    assert update._aim == pytest.approx(0.1 * 0.7**3)
    update.restart()
    assert update._aim == 0.1


def test_the_rate_of_baselines_rises_to_the_last_planned_step() -> None:
    """And they learn from the calmer D* alone: Adam's first steps are as long as its rate."""
    probe, lengths, noises = Weight(1.0), [], list[float]()

    def calm(noise: float) -> Tensor:
        noises.append(noise)
        return 0.1 - 2 * probe.baseline

    update = module("_updates").Controlled(probe, 0.2, rates(1e-3, 0.01, 4))
    for _ in range(6):
        before = float(probe.baseline.detach())
        update.step(probe.gate.sum(), probe.divergence() + 9 * probe.baseline, calm)
        lengths.append(float(probe.baseline.detach()) - before)
    assert lengths == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rel=1e-3)
    assert noises == [0.5] * 6


def test_baselines_are_learned_in_parts_of_the_size_of_messages() -> None:
    subject, graphs = contract_subject(2), random_graphs(4, "objective")
    method = make(subject)
    with method.gates() as gates, torch.no_grad():
        recording = gates.record(graphs)
        probe = module("_gate_networks").Probe([recording], 5, 0.4, 9.0, 1)
        for parameter in probe.baseline_parameters():
            parameter.fill_(0.5)
        for call, baseline in zip(recording.calls, probe.baselines(), strict=True):
            size = call.flat_messages().square().mean().sqrt()
            assert torch.allclose(baseline, 0.5 * size.expand(call.width))
        silent = replace(recording.calls[0], sent=torch.zeros_like(recording.calls[0].messages))
        assert float(network_of(silent).size) == 1.0


def network_of(*calls: Any) -> Any:
    """Return the network of one layer, drawn the same way every time, for what calls over parts of the graphs read."""
    kinds = module("_moments")
    read = [reduce(kinds.pooled, map(kinds.moments, parts)) for parts in zip(*(c.read() for c in calls), strict=True)]
    torch.manual_seed(0)
    return module("_gate_networks").gate_network(calls[0], read, 5).double()


def test_what_gates_read_is_standardised_and_constant_channels_say_nothing() -> None:
    subject, graphs = contract_subject(2), random_graphs(9, "objective")
    with make(subject).gates() as gates:
        call = gates.record(graphs).calls[0]
    scales, shift = 10.0 ** torch.arange(-3, 3).double(), torch.tensor([0, 0, 0, 0, 0, 7.0]).double()
    keeps = torch.tensor([1, 1, 1, 1, 1, 0]).double()  # the last channel is 7 everywhere
    other = replace(call, sent=call.messages * scales * keeps + shift)
    network, same = network_of(call), network_of(other)
    with torch.no_grad():
        message = network.network.first.weight[:, -1].clone()
        network.network.first.weight[:, -1] = 0
        expected, found = network.read(call), same.read(other)
        torch.testing.assert_close(found, expected)  # whatever the scales
        network.network.first.weight[:, -1] = message
        assert not torch.allclose(network.read(call), expected)
        assert not torch.allclose(
            same.read(replace(other, sent=other.messages + shift)), expected
        )  # it varies after all


def test_the_scale_of_what_gates_read_is_that_of_all_parts() -> None:
    subject, graphs = contract_subject(2), random_graphs(9, "objective")
    with make(subject).gates() as gates:
        whole = module("_gate_networks").Probe([gates.record(graphs)], 5, 0.4, 9.0, 1)
        for most in (1, 20):
            parts = (gates.record(part.batch) for part in graphs.parts(most))
            torch.testing.assert_close(
                module("_gate_networks").Probe(parts, 5, 0.4, 9.0, 1).state_dict(), whole.state_dict()
            )
        call = gates.record(graphs).calls[0]
    assert bool((network_of(call).deviation > 0).all())
    edge = slice(0, 1)
    alone = replace(call, sent=call.messages[edge], source=call.source[edge], target=call.target[edge])
    assert network_of(alone).deviation.tolist() == [1.0] * len(network_of(alone).deviation)  # one edge tells no scale


@pytest.mark.parametrize(
    "options", [{"location_bound": 0.01}, {"location_bias": -1.0}, {"stretch_low": -1e9}, {"stretch_high": 1e9}]
)
def test_gates_that_cannot_be_both_open_and_closed_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected gates that start open and can close"):
        METHODS["graphmask"].Config(**options)


def test_an_infeasible_fit_says_what_failed_and_what_it_came_to() -> None:
    few = make(contract_subject(1), steps=2, restarts=0, tolerance=1e6, max_changed=1.0, margin=0.0)
    with pytest.raises(Infeasible, match=r"retains at most 0\.95 \(max_retained\); the best retains 100\.0%"):
        few.fit()
    assert (few.figures["restarts"], few.figures["retained"], few.figures["nearly_all"]) == (0, 1, 1)
    assert few.figures["unsettled"] == 1
    closed = make(contract_subject(1), steps=2, restarts=1, max_changed=1.0)
    found = [
        (module("_constraint").Verdict(0.5, 0.25, 9.0), 0.125, 0.9),
        (module("_constraint").Verdict(0.6, 0.5, 12.0), 0.5, 0.5),
    ]
    attempts = iter(found)

    def train(_: int) -> Any:
        closed.figures = {}
        return module("graphmask").Checkpoint({}, *next(attempts))

    closed._train = train
    with pytest.raises(Infeasible) as refused:
        closed.fit()
    assert str(refused.value).startswith("no probe in 2 attempts keeps mean D* within tolerance=0.03, with 3 standard")
    assert (closed.figures["restarts"], closed.figures["divergence"]) == (0, 0.5)  # those of the attempt that it names
    assert "D* 0.5, 25.0% of predictions changed and retains 12.5%" in str(refused.value)
    assert closed.figures["nearly_all"] == 1  # of one sample, which the other would outvote


def test_what_is_retained_is_counted_of_all_samples_and_of_the_fullest() -> None:
    method = make(contract_subject(1), margin=0.0)
    method.distribution = method.config.distribution
    method.constraint = module("_constraint").Constraint(0.03, 0.02, 0.0)
    with method.gates() as gates:
        streams = [gates.stream(random_graphs(count, name), 10**6) for count, name in ((12, "some"), (3, "few"))]
        seen = (recording for stream in streams for _, recording in stream.recordings())
        probe = module("_gate_networks").Probe(seen, 5, 0.2, 9.0, 1)
        together, *alone = (method._check(probe, chosen, 0) for chosen in (streams, streams[:1], streams[1:]))
    edges = [stream.graphs.num_edges for stream in streams]
    shares = [one.retained for one in alone]
    assert shares[0] != shares[1]
    assert together.retained == pytest.approx((shares[0] * edges[0] + shares[1] * edges[1]) / sum(edges))
    assert together.fullest == max(shares)


@pytest.mark.parametrize(
    ("shares", "feasible", "rest"),
    [
        ([0.5] * 12, [True] * 12, True),
        ([0.5] * 11, [True] * 11, False),  # too few to tell
        ([0.5, *[0.48] * 10, 0.474], [True] * 12, False),  # by a twentieth
        ([0.5, *[0.49] * 10, 0.476], [True] * 12, True),
        ([0.3] * 12, [True, *[False] * 11], False),  # it would be sparser, but is infeasible
    ],
)
def test_a_fit_is_at_rest_where_it_hardly_falls(shares: list[float], feasible: list[bool], rest: bool) -> None:
    progress = module("graphmask")._Progress(checkpoint(0.5, shares[0]), stop_after=99, patience=99)
    for share, ok in zip(shares, feasible, strict=True):
        progress.add(checkpoint(0.5 if ok else 3.0, share))
    assert progress.at_rest == rest


def test_a_multiplier_far_from_balance_is_that_of_no_optimum() -> None:
    """Two directions of length 1 cancel at weight 1, whose logarithm is 0; a slack constraint has none."""
    update = object.__new__(module("_updates").Controlled)
    cases = [(1.4, 0.5), (2.6, 0.5), (2.6, 0.0), (-2.6, 0.5), (-2.6, 0.005)]
    assert [update.balanced(*case) for case in cases] == [True, False, False, False, True]
    assert object.__new__(module("_updates").Lagrangian).balanced(9.0, 0.5)


@pytest.mark.parametrize(
    ("course", "multiplier", "update", "unsettled"),
    [
        ([1, 0.5, *[0.4] * 14], 0.5, "controlled", 0),
        ([1, 0.5, *[0.4] * 14], 2.75, "controlled", 1),
        ([1, 0.5, *[0.4] * 14], 2.75, "paper", 0),
        ([0.97**k for k in range(16)], 0.5, "controlled", 1),
        ([1.0] * 16, 0.5, "controlled", 1),  # nothing was ever closed
    ],
)
def test_a_fit_says_whether_it_came_to_rest(
    course: list[float], multiplier: float, update: str, unsettled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer, and checks that show a course of shares, with a multiplier that moves by 0.1 around a value."""
    method = make(contract_subject(1), steps=75, check_every=5, stop_after=99, update=update, **UNCONSTRAINED)
    check, shares, seen = method._check, iter(course), list[float]()

    def judge(*arguments: Any) -> Any:
        return replace(check(*arguments), retained=next(shares))

    def logarithm(_: Any) -> float:
        seen.append(multiplier + 0.05 * (-1) ** len(seen))
        return seen[-1]

    method._check = judge
    for kind in ("Controlled", "Lagrangian"):
        monkeypatch.setattr(module("_updates").__dict__[kind], "log_multiplier", logarithm)
    method._train(0)
    figures = method.figures
    assert figures["steps"] == 75
    assert figures["unsettled"] == unsettled
    assert figures["late_fall"] == pytest.approx(1 - course[15] / course[9])
    assert figures["late_multiplier"] == pytest.approx(0.1)
    assert figures["log_multiplier"] == pytest.approx(sum(seen[-7:]) / 7)


@pytest.mark.parametrize("relu", [False, True])
def test_the_papers_update_against_a_plain_one(relu: bool) -> None:
    """Centred RMSProp upwards in the raw multiplier, Adam downwards in the gate, the gradient clipped at 0.3."""
    probe = Weight(2.0)
    update = module("_updates").Lagrangian(probe, 0.05, rates(0.1), relu=relu)
    gate, raw, m, v, square, mean = 1.0, 5.0, 0.0, 0.0, 0.0, 0.0
    for t in range(1, 30):
        update.step(probe.gate.sum(), probe.divergence(), lambda _: torch.tensor(math.nan))
        excess, slope = 2 * (1 - gate) ** 2 - 0.05, -4 * (1 - gate)
        if relu and excess < 0:
            excess, slope = 0.0, 0.0
        gradient = 5 + math.log1p(math.exp(raw)) * slope
        gradient *= min(1, 0.3 / (abs(gradient) + 1e-6))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        gate -= 0.1 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        ascent = excess / (1 + math.exp(-raw))
        square, mean = 0.99 * square + 0.01 * ascent**2, 0.99 * mean + 0.01 * ascent
        raw = min(30, max(-2, raw + 0.01 * ascent / (math.sqrt(max(0, square - mean**2)) + 1e-8)))
        assert float(probe.gate.detach()) == pytest.approx(gate, abs=2e-5)
        assert update.log_multiplier() == pytest.approx(math.log(math.log1p(math.exp(raw)) / 5), abs=1e-4)


def test_steps_with_the_same_graphs_share_their_unmasked_pass_but_not_their_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def step(method: Any, update: Any, recording: Any, lowest: int, noise: torch.Generator) -> None:
        seen.append((recording, torch.rand(1, generator=noise).item()))

    monkeypatch.setattr(KIND, "_step", step)
    make(contract_subject(1), steps=7, steps_per_batch=3, **UNCONSTRAINED).fit()
    recordings = [recording for recording, _ in seen]
    assert [a is b for a, b in pairwise(recordings)] == [True, True, False, True, True, False]
    assert len({draw for _, draw in seen}) == 7


def test_it_stops_when_nothing_sparser_is_found() -> None:
    options = {**UNCONSTRAINED, "steps": 3000, "check_every": 10, "stop_after": 3, "learning_rate": 0.01}
    method = make(contract_subject(1), **options)
    method.fit()
    assert method.figures["steps"] < 3000
    assert method.figures["unsettled"] == 0
    short = make(contract_subject(1), **{**options, "steps": 20})
    short.fit()
    assert short.figures["unsettled"] == 1


def test_it_says_infeasible_rather_than_score_a_collapse() -> None:
    method = make(contract_subject(1), steps=40, tolerance=1e-9, restarts=1)
    with pytest.raises(Infeasible, match="no probe in 2 attempts"):
        method.fit()


def test_it_finds_the_edges_that_matter() -> None:
    """Only edges of type 0 carry anything: a trained probe retains these and no others."""

    class TypeZero(SumOfMessages):
        def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor | None = None) -> Tensor:
            out: Tensor = self.propagate(edge_index, x=x, edge_type=edge_type)
            return out

        def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * torch.stack([(edge_type == 0).to(x_j.dtype), torch.ones_like(x_j[:, 0])], dim=-1)

    class Counter(GraphModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = TypeZero()

        def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
            h = self.layer(graphs["x"], graphs.edge_index, graphs["edge_type"])[:, 0]
            total = h.new_zeros(graphs.num_graphs).index_add(0, graphs.batch, h)
            return torch.stack([torch.full_like(total, 4.5), total], dim=-1)

    train = random_graphs(600, "many")
    graphs = random_graphs(100, "check")
    subject = Subject(Counter(), GraphClassification(), train, graphs, 1)
    method = KIND(KIND.Config(batch_size=16, learning_rate=3e-3, hidden=8), subject=subject, seed=0)
    method.fit()
    attribution = method.attribute(graphs)
    assert attribution.hard_mask is not None
    truth = graphs["edge_type"] == 0
    assert float((attribution.hard_mask[0] == truth).double().mean()) > 0.99
    one_type = replace(graphs, edge={"edge_type": torch.ones_like(graphs["edge_type"])})
    empty = method.attribute(one_type).hard_mask
    assert empty is not None
    assert not empty.any()


def test_it_finds_the_layer() -> None:
    """On a path of a red and a blue edge, red edges are retained in the first layer and blue ones in the second."""
    task = TASKS["two-hop"]
    config = make_config("two-hop", task.Config, {"train": 600, "validation": 100, "test": 60})
    problem = build_problem(task(config), TaskSeeds(1000, 1000), Workshop(torch.device("cpu"), without_cache))
    rates = {"learning_rate": 3e-3, "baseline_learning_rate": 3e-4}  # for the sake of speed
    method = KIND(KIND.Config(steps=1500, steps_per_layer=300, **rates), subject=problem.subject(), seed=0)
    method.fit()
    test = problem.splits["test"]
    mask = method.attribute(test.graphs).hard_mask
    assert mask is not None
    assert test.gold is not None
    for row in by_layer(mask.float(), mask, test.gold):
        assert row["f1"] > 0.9
