"""How GraphMask's constraint is weighed against its penalty while gates are trained: two rules for the multiplier.

Both descend in gates and baselines by Adam on penalty + multiplier * D*. The rate of the baselines rises from 0.
Learned early, they make up for a layer that closes altogether while it closes (a baseline that says "perhaps"
everywhere costs little when most graphs are undecided anyway), and no single gate that opens again is an improvement.
Learned late, they lower D* of the gates that were found, and let further ones close.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attribench.model.hard_concrete import HardConcrete, straight_through_round, trapezoidal_gate

from ._gate_networks import Probe


@dataclass(frozen=True)
class Rates:
    """Adam's learning rates.

    Args:
        gates: that of gates.
        baselines: that of baselines at the last step, to which it rises from 0 in proportion to the steps made.
        steps: most steps of all stages.
    """

    gates: float
    baselines: float
    steps: int


class Update(ABC):
    """Steps down in a probe's parameters, with a multiplier of its own.

    Args:
        probe: what is trained.
        tolerance: beta of Eq. 5.
        rates: Adam's and how they change.
    """

    def __init__(self, probe: Probe, tolerance: float, rates: Rates) -> None:
        self._probe, self._tolerance, self._rates = probe, tolerance, rates
        self._gates, self._baselines = probe.gate_parameters(), probe.baseline_parameters()
        self._steps = 0
        self._optimizer = self._adam()

    def _adam(self) -> torch.optim.Optimizer:
        parts: list[dict[str, Any]] = [{"params": self._gates, "lr": self._rates.gates}, {"params": self._baselines}]
        return torch.optim.Adam(parts, fused=True)

    def _descend(self) -> None:
        """Step down along what is in ``grad``."""
        self._steps += 1
        self._optimizer.param_groups[1]["lr"] = self._rates.baselines * min(1.0, self._steps / self._rates.steps)
        self._optimizer.step()

    @abstractmethod
    def gates(self, distribution: HardConcrete, locations: Tensor, uniform: Tensor) -> Tensor:
        """Return gates ``(K, E)`` of 0 and 1, with a gradient in ``locations``, for draws from U(0, 1)."""

    @abstractmethod
    def sparsity(self, distribution: HardConcrete, locations: Tensor) -> Tensor:
        """Return ``(K, E)``, the summands of the penalty."""

    @abstractmethod
    def step(self, penalty: Tensor, divergence: Tensor, calm: Callable[[float], Tensor]) -> None:
        """Update all parameters.

        Args:
            penalty: mean of :meth:`sparsity` over the messages of a batch.
            divergence: D* ``(G,)`` of its graphs.
            calm: returns D* ``(G,)`` with less noise in the gates, so many parts of it, with a gradient in baselines
                alone.
        """

    @abstractmethod
    def log_multiplier(self) -> float:
        """Return the logarithm of what D* is weighed with, where the penalty has weight 1."""

    def balanced(self, logarithm: float, retained: float) -> bool:
        """Return whether the multiplier's logarithm may be that of an optimum that retains so much."""
        return True

    @abstractmethod
    def stages(self, num_layers: int) -> Iterable[int]:
        """Return the lowest layer that is gated, for every stage of training."""

    def restart(self) -> None:
        """Forget the moments, and weigh the constraint more: the probe went back to its best state."""
        self._optimizer = self._adam()

    @property
    def spent(self) -> bool:
        """Whether another restart from the same state would be like the last one."""
        return False

    def heed(self, strain: float) -> None:  # noqa: B027 - the paper's rule sees no held-out graphs
        """Take note of how the gates do on graphs that are not trained on: see ``Verdict.strain``."""

    def judged(self) -> Probe:
        """Return the probe that is judged: the one that is trained."""
        return self._probe


class Controlled(Update):
    """Steps along two directions, of the penalty and of D*, weighed by a multiplier that is controlled.

    Gradients of gates are taken by ``trapezoidal_gate``, which says why: the paper's, straight through a hard concrete
    gate, vanish where it is almost sure, and a gate that closed wrongly stays closed.

    The penalty's gradient has length 1 in every step, that of D* at most 1: it is divided by the mean of its late
    lengths. Otherwise a gate that closes wrongly sends one thousands of times longer than the penalty's,
    Adam's second moment remembers it, and the penalty moves nothing for long. With length 1 in every step, too, graphs
    on which all is well would push as hard as those that need a gate: where D* has a heavy tail they outvoted them. And
    so no scale is given: not the number of edges or layers, not the size of messages, not how the divergence is
    reduced.

    The multiplier's logarithm is moved by proportional-integral control, by how far D* is from what is aimed at. It is
    D* of calmer gates than those that are trained with: while gates start open, the noise alone makes it many times the
    tolerance in large graphs. What is aimed at is half the tolerance, so that nothing that is needed is closed to use
    it up; it falls while the gates are infeasible on graphs that are not trained on, and rises again while they are
    not: so it finds the D* that the predictions allow that may change, where they are the tighter bound. It waits while
    D* has not come that far (no wind-up): gates that close within fifty steps take some hundred to open, and an aim
    that went on falling would have all of them opened.

    Baselines learn from D* of the calmer gates: they replace messages that are closed for good, and what noise closes
    teaches them otherwise.

    Steps of length 1 do not come to rest. What is judged and kept is a running mean of the parameters (Polyak &
    Juditsky 1992), as ``torch.optim.swa_utils`` keeps it.
    """

    PROPORTIONAL = 1.0  # gain of the logarithm
    INTEGRAL = 0.01  # the same, per step
    SMOOTHING = 0.8  # of D* over steps, whose tail is heavy
    EXCESS = 2.0  # the largest that counts: one graph with D* of 10 nats is no reason to open everything
    START, RANGE = 1.0, 3.0  # of the logarithm, the latter to both sides of 0: beyond, what D* says is all noise
    REMEMBERED, OUTLIER = 0.98, 3.0  # decay of the mean length of gradients of D*, per step; most that counts in it
    FAR, HARDLY = 2.5, 0.01  # of the logarithm from 0, for a fit that is at rest; share that is hardly anything
    EXPONENT, LOWER, HIGHER = 0.5, 0.7, 1.3  # the aim's change with the strain after a check: exponent and bounds
    MOST_WEIGHT = 4.0  # of one end of a gate, see trapezoidal_gate
    NEAR = 1.3  # as factor: within it the aim is reached
    AVERAGING = 0.98  # decay per step of the running mean of parameters
    CALM = 0.5  # noise of the gates that are aimed with, in parts of what is trained with
    LEAST, MOST = 0.01, 0.5  # of the aim, in parts of the tolerance; it starts at the latter

    def __init__(self, probe: Probe, tolerance: float, rates: Rates) -> None:
        super().__init__(probe, tolerance, rates)
        self._restarts = 0
        self._weigh()

    def stages(self, num_layers: int) -> Iterable[int]:
        """Gate all layers from the start: one after another, an upper one takes what is allowed to all."""
        return (0,)

    def gates(self, distribution: HardConcrete, locations: Tensor, uniform: Tensor) -> Tensor:
        """Return gates with the gradient of an expectation in their locations, without the factor dP/dgamma."""
        drawn = distribution.sample(locations.detach(), uniform)
        return trapezoidal_gate(drawn, locations, distribution.probability_open(locations.detach()), self.MOST_WEIGHT)

    def sparsity(self, distribution: HardConcrete, locations: Tensor) -> Tensor:
        """Return the locations: the expected number of open gates, without the factor dP/dgamma in its gradient."""
        return locations

    def restart(self) -> None:
        """Start higher than the last time, and with the first aim."""
        super().restart()
        self._restarts += 1
        self._weigh()

    @property
    def spent(self) -> bool:
        """Whether the multiplier started at its bound."""
        return self.START + self._restarts >= self.RANGE

    def _weigh(self) -> None:
        """Weigh the constraint more than the penalty, and the more the more often it was not enough."""
        self._aim = self._smoothed = self.MOST * self._tolerance
        self._log = min(self.START + self._restarts, self.RANGE)
        self._since: list[float] = []  # D* of every step since the last check
        self._mean = AveragedModel(self._probe, multi_avg_fn=get_ema_multi_avg_fn(self.AVERAGING))
        self._length = self._gates[0].new_zeros(())  # running mean of the lengths of the gradients of D*

    def heed(self, strain: float) -> None:
        """Aim lower where the gates are infeasible, higher otherwise; not while D* is still on its way there."""
        change = max(strain, math.ulp(0.0)) ** -self.EXPONENT
        reached, self._since = sum(self._since) / max(1, len(self._since)), []
        if (change < 1 and reached > self.NEAR * self._aim) or (change > 1 and self.NEAR * reached < self._aim):
            return
        aim = self._aim * min(max(change, self.LOWER), self.HIGHER)
        self._aim = min(max(aim, self.LEAST * self._tolerance), self.MOST * self._tolerance)

    def balanced(self, logarithm: float, retained: float) -> bool:
        """Return whether the logarithm is near 0: two directions of length 1 cancel each other at weight 1.

        Noise, which shortens their means, takes it to 1.5. Beyond ``FAR`` one of both is all noise: locations go
        nowhere, and what is retained is no optimum. Where the constraint is slack, as little as 0 is right, and hardly
        anything is retained.
        """
        return logarithm <= self.FAR and (logarithm >= -self.FAR or retained <= self.HARDLY)

    def judged(self) -> Probe:
        """Return the running mean of the probe's parameters, as a probe."""
        return cast(Probe, self._mean.module)

    def log_multiplier(self) -> float:
        """Return the logarithm of how much longer the step along D* is than that along the penalty."""
        return self._log

    def step(self, penalty: Tensor, divergence: Tensor, calm: Callable[[float], Tensor]) -> None:
        """Move the multiplier by what D* is above or below the aim, then the parameters."""
        quiet = calm(self.CALM).mean()
        self._since.append(float(quiet.detach()))
        self._smoothed = self.SMOOTHING * self._smoothed + (1 - self.SMOOTHING) * self._since[-1]
        excess = min(max(self._smoothed / self._aim - 1, -1.0), self.EXCESS)
        self._log = self._bounded(self._log + self.INTEGRAL * excess)
        multiplier = math.exp(self._bounded(self._log + self.PROPORTIONAL * excess))
        towards_sparser = _scaled(*self._gradient(penalty, retain=True))
        towards_faithful = self._within_usual(*self._gradient(divergence.mean()))
        for parameter, along_penalty, along_divergence in zip(
            self._gates, towards_sparser, towards_faithful, strict=True
        ):
            parameter.grad = (along_penalty + multiplier * along_divergence) / (1 + multiplier)
        for parameter, gradient in zip(self._baselines, _gradient(quiet, self._baselines), strict=True):
            parameter.grad = gradient
        self._descend()
        self._mean.update_parameters(self._probe)

    def _bounded(self, logarithm: float) -> float:
        return min(max(logarithm, -self.RANGE), self.RANGE)

    def _gradient(self, value: Tensor, *, retain: bool = False) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the gradient of a value in the gates' parameters, and its length."""
        gradients = _gradient(value, self._gates, retain=retain)
        return gradients, torch.stack(torch._foreach_norm(gradients)).norm()

    def _within_usual(self, gradients: tuple[Tensor, ...], length: Tensor) -> list[Tensor]:
        """Return a gradient divided by the mean of late lengths, or by its own where that is more."""
        usual = torch.where(self._length > 0, self._length, length)
        counted = torch.minimum(length, self.OUTLIER * usual)
        self._length = self.REMEMBERED * usual + (1 - self.REMEMBERED) * counted
        return _scaled(gradients, torch.maximum(length, self._length))


def _scaled(gradients: tuple[Tensor, ...], length: Tensor) -> list[Tensor]:
    """Return gradients divided by a length, or 0 where that is 0."""
    return list(torch._foreach_div(gradients, length.clamp(min=torch.finfo(length.dtype).tiny)))


def _gradient(value: Tensor, parameters: Sequence[Tensor], *, retain: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, parameters, retain_graph=retain, allow_unused=True, materialize_grads=True)


class Lagrangian(Update):
    """Gradient ascent in the multiplier, by centred RMSProp: Eq. 5 and Appendix C.

    Args:
        probe, tolerance, rates: as for :class:`Update`.
        relu: around the excess of each graph's D* over the tolerance, as in the released code; Eq. 5 has none.
    """

    RATE = 1e-2  # RMSProp's
    START = 5.0  # raw; its softplus multiplies
    RANGE = (-2.0, 30.0)  # raw
    RAISE = 2.0  # raw, on restarting
    WEIGHT = 5.0  # of the penalty, the released code's on the toy
    CLIP = 0.3  # largest norm of the gradient, which one gate that closes wrongly makes thousands of times longer

    def __init__(self, probe: Probe, tolerance: float, rates: Rates, *, relu: bool) -> None:
        super().__init__(probe, tolerance, rates)
        self._relu = relu
        self._raw = self._gates[0].new_full((), self.START).requires_grad_()
        self._raw_optimizer = torch.optim.RMSprop([self._raw], lr=self.RATE, centered=True, maximize=True)

    def stages(self, num_layers: int) -> Iterable[int]:
        """Gate one layer after another, from the top."""
        return reversed(range(num_layers))

    def gates(self, distribution: HardConcrete, locations: Tensor, uniform: Tensor) -> Tensor:
        """Return gates that are rounded straight through (Appendix B)."""
        return straight_through_round(distribution.sample(locations, uniform))

    def sparsity(self, distribution: HardConcrete, locations: Tensor) -> Tensor:
        """Return the expected L0 of Eq. 11."""
        return distribution.probability_nonzero(locations)

    def restart(self) -> None:
        """Raise the multiplier."""
        super().restart()
        with torch.no_grad():
            self._raw += self.RAISE

    def log_multiplier(self) -> float:
        """Return the logarithm of what D* is weighed with, of the penalty's weight."""
        return math.log(float(F.softplus(self._raw.detach())) / self.WEIGHT)

    def step(self, penalty: Tensor, divergence: Tensor, calm: Callable[[float], Tensor]) -> None:
        """Step down in the parameters and up in the multiplier."""
        excess = divergence - self._tolerance
        self._raw.grad = None
        loss = self.WEIGHT * penalty + F.softplus(self._raw) * (excess.relu() if self._relu else excess).mean()
        parameters = [*self._gates, *self._baselines]
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, self.CLIP)
        self._descend()
        self._raw_optimizer.step()
        with torch.no_grad():
            self._raw.clamp_(*self.RANGE)
