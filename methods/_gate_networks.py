"""The networks that predict a location for every gate: Eq. 4, 7 and 9, one per layer, with the layer's baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from attribench.base.seeds import derive
from attribench.model.adjacency_driver import AdjacencyCall
from attribench.model.call import Call
from attribench.model.recording import Recording

from ._moments import Moments, moments, pooled

START = 0.1
"""Weights W_r of Eq. 9 at the start, in parts of those with which gates would be as far apart as by Eq. 7."""


class _Within(torch.autograd.Function):
    """Clamp to [-bound, bound]; the gradient passes, unless a step along it leads further out."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bound = bound
        return values.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        outwards = (values >= ctx.bound) & (gradient < 0) | (values <= -ctx.bound) & (gradient > 0)
        return gradient.masked_fill(outwards, 0), None


def within(values: Tensor, bound: float) -> Tensor:
    """Return values clamped to [-bound, bound], with the gradient of the identity where it leads inwards."""
    result: Tensor = _Within.apply(values, bound)
    return result


class EdgeNetwork(nn.Module):
    """W2 ReLU(LN(W1 q)) of Eq. 7, one number for every edge.

    Args:
        inputs: width of q = [h_u, h_v, m].
        hidden: rows of W1.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1))

    @property
    def first(self) -> nn.Linear:
        """W1, with its bias."""
        return cast(nn.Linear, self.layers[0])

    def read(self, call: Call) -> Tensor:
        """Return ``(E,)``."""
        return self.finish(call.project(self.first.weight, self.first.bias))

    def finish(self, projected: Tensor) -> Tensor:
        """Return ``(E,)`` from W1 q ``(E, hidden)``."""
        numbers: Tensor = self.layers[1:](projected)
        return numbers[:, 0]


class EntryNetwork(nn.Module):
    """W_r ReLU(LN(W1 h_v)) . h_u of Eq. 9 for target v, source u and relation r, one number for every edge.

    The sum of products is divided by their number: Adam moves each by its learning rate, and a gate by all of them. And
    there is a constant among the numbers of h_u, whose product is not: a relation is closed as fast as by Eq. 7. The
    numbers of h_u have mean square 1, as those that are read of h_v by the LN: otherwise the gates of unusual nodes,
    such as the subject of a question, move many times as far as others.

    Args:
        inputs: width H of h.
        hidden: rows of W1.
        num_relations: R.
    """

    def __init__(self, inputs: int, hidden: int, num_relations: int) -> None:
        super().__init__()
        self.target = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.relation = nn.Parameter(torch.empty(num_relations, hidden, inputs))
        self.constant = nn.Parameter(torch.empty(num_relations, hidden))
        # so small that all gates start open, whatever the nodes
        nn.init.uniform_(self.relation, -START * (inputs / hidden) ** 0.5, START * (inputs / hidden) ** 0.5)
        nn.init.uniform_(self.constant, -START * hidden**-0.5, START * hidden**-0.5)

    def read(self, call: AdjacencyCall, h: Tensor) -> Tensor:
        """Return ``(E,)`` of states ``(N, H)``; no operation makes more than a number for every entry."""
        read = self.target(h)
        h = h / h.square().mean(1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny).sqrt()
        products = (read @ self.relation.transpose(0, 1).flatten(1)).view(len(h), len(self.relation), -1)
        constant = (read @ self.constant.T)[..., None]  # (N, R, 1)
        targets = torch.cat([products / h.shape[1], constant], dim=2)
        return call.pairs(targets, torch.cat([h, h.new_ones(len(h), 1)], dim=1))


class GateNetwork(nn.Module, ABC):
    """g of Eq. 4 for one layer: gamma, and the layer's baseline b.

    What it reads is standardised, channel by channel. Adam steps as far along a channel that says nothing as along one
    that decides: where few channels are seldom on and hundreds vary at random, the few drown otherwise.

    Baselines are learned in parts of the size of the layer's messages, so that their learning rate means the same in
    every model.

    Args:
        width: D of the layer's messages.
        read: the moments of what it reads, part by part, see :meth:`.Call.read`.
        sent: those of the messages, or of the states where none is known.
    """

    mean: Tensor
    deviation: Tensor
    size: Tensor

    def __init__(self, width: int, read: Sequence[Moments], sent: Moments) -> None:
        super().__init__()
        self.relative_baseline = nn.Parameter(torch.zeros(width))
        mean, deviation = torch.cat([mean for _, _, mean in read]), torch.cat([std for _, std, _ in read])
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", _scale(mean, deviation))
        _, std, mean = sent
        self.register_buffer("size", _or_one((std.square() + mean.square()).mean().sqrt()))

    @property
    def baseline(self) -> Tensor:
        """The baseline b of Eq. 3, ``(D,)``."""
        return self.relative_baseline * self.size

    @abstractmethod
    def read(self, call: Call) -> Tensor:
        """Return gamma ``(E,)``."""

    @abstractmethod
    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters, without the baseline."""


class MessageGate(GateNetwork):
    """Eq. 7, on q = [h_u, h_v, m] of every message.

    Args:
        width, read, sent: as for :class:`GateNetwork`.
        hidden: rows of W1.
    """

    def __init__(self, width: int, read: Sequence[Moments], sent: Moments, hidden: int) -> None:
        super().__init__(width, read, sent)
        self.network = EdgeNetwork(len(self.mean), hidden)

    def read(self, call: Call) -> Tensor:
        """Return gamma ``(E,)`` of standardised inputs."""
        first = self.network.first
        weight = first.weight / self.deviation
        return self.network.finish(call.project(weight, first.bias - weight @ self.mean))

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return W1, the normalisation's parameters, and W2."""
        return list(self.network.parameters())


class EntryGate(GateNetwork):
    """Eq. 9, for the entries of matrices of adjacency.

    Args:
        width, read, sent: as for :class:`GateNetwork`; it reads the states alone.
        hidden: rows of W1.
        num_relations: R.
    """

    def __init__(self, width: int, read: Sequence[Moments], sent: Moments, hidden: int, num_relations: int) -> None:
        super().__init__(width, read, sent)
        self.network = EntryNetwork(len(self.mean), hidden, num_relations)

    def read(self, call: Call) -> Tensor:
        """Return gamma ``(E,)`` of standardised states."""
        entries = of_entries(call)
        return self.network.read(entries, (entries.h_source.flatten(1) - self.mean) / self.deviation)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return W1, the normalisation's parameters, and all W_r."""
        return list(self.network.parameters())


def of_entries(call: Call) -> AdjacencyCall:
    """Return the call as one of matrices of adjacency.

    Raises:
        TypeError: where it is none.
    """
    if not isinstance(call, AdjacencyCall):
        raise TypeError(f"expected a call of matrices of adjacency; got {type(call).__name__}")
    return call


def gate_network(call: Call, seen: Sequence[Moments], hidden: int) -> GateNetwork:
    """Return the network for a layer's calls, from what :func:`seen_of` such calls is."""
    if isinstance(call, AdjacencyCall):
        read, sent = seen[:1], seen[1]
        return EntryGate(call.width, read, sent, hidden, call.num_relations)
    return MessageGate(call.width, seen, seen[0] if call.sent is None else seen[2], hidden)


def seen_of(call: Call) -> list[Moments]:
    """Return the moments of what a network reads of a call, and of the messages where these are no part of it."""
    read = [moments(part) for part in call.read()]
    return [*read, message_moments(call)] if isinstance(call, AdjacencyCall) else read


def message_moments(call: Call) -> Moments:
    """Return count, deviation and mean ``(D,)`` of a layer's messages."""
    if isinstance(call, AdjacencyCall):
        sends = call.sends()
        return moments(sends, call.sender.bincount(minlength=len(sends)))
    return moments(call.flat_messages())


def _scale(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return what channels are divided by: their deviation, and that of the others where it is rounding or 0.

    A channel that was constant then says nothing, unless it varies elsewhere.
    """
    varies = deviation > 8 * torch.finfo(mean.dtype).eps * mean.abs()
    others = deviation[varies].square().mean().sqrt() if bool(varies.any()) else mean.new_ones(())
    return torch.where(varies, deviation, others)


def _or_one(size: Tensor) -> Tensor:
    """Return a size, or 1 where it is 0."""
    return torch.where(size > 0, size, torch.ones_like(size))


class Probe(nn.Module):
    """One gate network per layer.

    Locations are bounded, so that no gate is far from where it changes, and each is drawn the other way at times.

    Args:
        recordings: of the graphs from which the networks take the scale of what they read.
        hidden: width of the networks.
        bias: c of Appendix B.
        bound: of the locations, to both sides of 0.
        seed: what they are initialised from.
    """

    def __init__(self, recordings: Iterable[Recording], hidden: int, bias: float, bound: float, seed: int) -> None:
        super().__init__()
        seen = []  # by recording, layer and part
        for recording in recordings:
            seen.append([seen_of(call) for call in recording.calls])
        whole = [[reduce(pooled, of) for of in zip(*parts, strict=True)] for parts in zip(*seen, strict=True)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("probe", seed))
            pairs = zip(recording.calls, whole, strict=True)
            self.networks = [gate_network(call, of, hidden) for call, of in pairs]
        self.bias, self.bound = bias, bound
        self.layers = nn.ModuleList(self.networks)
        self.to(recording.logits)

    def forward(self, recording: Recording, lowest: int = 0) -> Tensor:
        """Return the locations gamma + c ``(L - lowest, E)`` of the layers from ``lowest`` up."""
        calls = zip(self.networks[lowest:], recording.calls[lowest:], strict=True)
        return within(torch.stack([network.read(call) for network, call in calls]) + self.bias, self.bound)

    def baselines(self) -> list[Tensor]:
        """Return b(k) ``(D,)`` of every layer."""
        return [network.baseline for network in self.networks]

    def baseline_parameters(self) -> list[nn.Parameter]:
        """Return what the baselines are made of."""
        return [network.relative_baseline for network in self.networks]

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of all gates, without the baselines."""
        return [parameter for network in self.networks for parameter in network.gate_parameters()]
