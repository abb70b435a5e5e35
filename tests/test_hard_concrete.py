"""The hard concrete distribution against its definition, by sampling and by hand."""

import math

import pytest
import torch
from torch import Tensor

from attribench.model.hard_concrete import HardConcrete, straight_through_round, trapezoidal_gate

SAMPLES = 200_000
UNIFORM = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

CASES = [
    (location, temperature, low, high)
    for low, high in [(-0.2, 1.0), (-0.1, 1.1), (-0.5, 1.3)]
    for location, temperature in [(-2.0, 1 / 3), (-0.3, 0.8), (0.0, 1 / 3), (1.0, 0.5), (2.0, 1 / 3)]
]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cdf(value: float, location: float, temperature: float, low: float, high: float) -> float:
    """P(stretched <= value), from u: stretched <= value where logit(u) <= tau logit((value - l) / (r - l)) - gamma."""
    share = (value - low) / (high - low)
    if share >= 1:
        return 1.0
    return 1 / (1 + math.exp(-(temperature * math.log(share / (1 - share)) - location)))


@pytest.mark.parametrize(("location", "temperature", "low", "high"), CASES)
def test_samples_have_the_closed_form_probabilities(
    location: float, temperature: float, low: float, high: float
) -> None:
    distribution = HardConcrete(temperature, low, high)
    z = distribution.sample(scalar(location), UNIFORM)
    closed, opened = cdf(0, location, temperature, low, high), 1 - cdf(1, location, temperature, low, high)
    assert float(distribution.probability_nonzero(scalar(location))) == pytest.approx(1 - closed, rel=1e-12)
    assert float(distribution.probability_one(scalar(location))) == pytest.approx(opened, rel=1e-12)
    half = cdf(0.5, location, temperature, low, high)
    for event, p in [(z == 0, closed), (z == 1, opened), (z <= 0.5, half)]:
        # Five standard deviations; with r = 1, sigmoid saturates to 1 in about one sample of a million.
        assert float(event.double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / SAMPLES) + 5e-5)


@pytest.mark.parametrize(
    ("location", "uniform", "expected"),
    [
        # s = sigmoid(3 (log u - log(1 - u) + gamma)), z = clip(1.2 s - 0.2)
        (0.0, 0.5, 0.4),
        (0.0, 0.2, 0.0),  # s = 1 / 65
        (0.0, 2 / 3, 1.2 * 8 / 9 - 0.2),
        (math.log(2), 0.5, 1.2 * 8 / 9 - 0.2),
    ],
)
def test_samples_by_hand(location: float, uniform: float, expected: float) -> None:
    z = HardConcrete(1 / 3, -0.2, 1.0).sample(scalar(location), scalar(uniform))
    assert float(z) == pytest.approx(expected, abs=1e-12)


def test_a_larger_location_opens_the_gate() -> None:
    distribution = HardConcrete(1 / 3, -0.1, 1.1)
    locations = torch.linspace(-6, 6, 49, dtype=torch.float64)
    z = distribution.sample(locations[:, None], UNIFORM[:1000])
    assert bool((z.diff(dim=0) >= 0).all())
    median = distribution.median(locations)
    for figure in (z.mean(1), distribution.probability_nonzero(locations), distribution.probability_one(locations)):
        assert bool((figure.diff() > 0).all())
    assert torch.equal(median, distribution.sample(locations, torch.tensor(0.5, dtype=torch.float64)))
    assert (float(median[0]), float(median[-1])) == (0, 1)


def test_the_formula_as_printed_closes_the_gate_as_its_location_grows() -> None:
    """Why the code departs from Eq. 12: s (l - r) + r falls in s, so that Appendix B's c = 2 would close gates."""
    low, high = -0.2, 1.0

    def printed(location: float) -> Tensor:
        s = torch.sigmoid((UNIFORM.logit() + location) * 3)
        return (s * (low - high) + high).clamp(0, 1)

    assert float(printed(2.0).mean()) < 0.2 < 0.8 < float(printed(-2.0).mean())
    ours = HardConcrete(1 / 3, low, high).sample(scalar(2.0), UNIFORM)
    assert float((ours > 0.5).double().mean()) > 0.8 > 0.2 > float((printed(2.0) > 0.5).double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_extremes(dtype: torch.dtype) -> None:
    tiny, eps = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    locations = torch.tensor([-1e4, -50, 0, 50, 1e4], dtype=dtype, requires_grad=True)
    uniform = torch.tensor([tiny, 0.5, 1 - eps / 2], dtype=dtype)[:, None]
    for distribution in (HardConcrete(), HardConcrete(1 / 3, -0.1, 1.1), HardConcrete(1 / 3, 0.0, 1.0)):
        for value in (
            distribution.sample(locations, uniform),
            distribution.probability_nonzero(locations),
            distribution.probability_one(locations),
        ):
            assert bool(((value >= 0) & (value <= 1)).all())
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value.sum(), locations)
                assert bool(gradient.isfinite().all())


def test_gradient_of_a_sample_by_hand() -> None:
    location = scalar(0.1).requires_grad_()
    HardConcrete(0.5, -0.2, 1.0).sample(location, scalar(0.6)).backward()
    s = 1 / (1 + math.exp(-(math.log(1.5) + 0.1) / 0.5))
    assert float(location.grad or 0) == pytest.approx(1.2 * s * (1 - s) / 0.5)


def test_without_a_stretch_below_0_no_gate_closes_exactly() -> None:
    distribution = HardConcrete(1 / 3, 0.0, 1.1)
    assert float(distribution.probability_nonzero(scalar(-3.0))) == 1
    assert bool((distribution.sample(scalar(-3.0), UNIFORM) > 0).all())


def test_straight_through_round() -> None:
    z = torch.tensor([0.0, 0.2, 0.5, 0.51, 1.0], dtype=torch.float64, requires_grad=True)
    rounded = straight_through_round(z)
    assert rounded.tolist() == [0, 0, 0, 1, 1]
    weights = torch.tensor([1.0, -2, 3, 4, 5], dtype=torch.float64)
    (rounded * weights).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == weights.tolist()


@pytest.mark.parametrize(("temperature", "low", "high"), [(1 / 3, -0.2, 1.0), (0.5, -0.1, 1.1), (1 / 3, 0.0, 1.0)])
def test_the_probability_of_a_rounded_gate_is_its_share_of_draws(temperature: float, low: float, high: float) -> None:
    distribution, uniform = HardConcrete(temperature, low, high), (torch.arange(100_000).double() + 0.5) / 100_000
    for location in (-3.0, 0.0, 0.3, 2.0):
        share = (distribution.sample(torch.tensor(location).double(), uniform) > 0.5).double().mean()
        assert float(distribution.probability_open(torch.tensor(location))) == pytest.approx(float(share), abs=2e-5)


def test_the_trapezoidal_gradient_is_that_of_the_expectation_of_a_quadratic() -> None:
    """Two gates that interact; all that is left out is dP/dgamma."""
    distribution, many = HardConcrete(), 600
    ticks = (torch.arange(many).double() + 0.5) / many
    uniform = torch.cartesian_prod(ticks, ticks)
    location = torch.tensor([1.3, -0.8], dtype=torch.float64, requires_grad=True)
    probability = distribution.probability_open(location)

    def f(z: torch.Tensor) -> torch.Tensor:
        return 2 * z[..., 0] ** 2 - 3 * z[..., 0] * z[..., 1] + 0.7 * z[..., 1] ** 2 + z[..., 0]

    z = trapezoidal_gate(distribution.sample(location.expand_as(uniform), uniform), location, probability, 1e9)
    assert z.detach().unique().tolist() == [0, 1]
    (found,) = torch.autograd.grad(f(z).mean(), location, retain_graph=True)
    corners = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).double()
    weights = torch.where(corners > 0, probability, 1 - probability).prod(1)
    (expected,) = torch.autograd.grad(weights @ f(corners), location)
    slope = (probability * (1 - probability)).detach()  # d sigmoid
    assert torch.allclose(found * slope, expected, atol=2e-3)


def test_the_weight_of_an_end_that_is_hardly_drawn_is_bounded() -> None:
    location = torch.tensor([-5.0, -5.0, 200.0], requires_grad=True)
    z = trapezoidal_gate(torch.tensor([1.0, 0.0, 0.0]), location, HardConcrete().probability_open(location), 4.0)
    z.sum().backward()
    assert z.tolist() == [1, 0, 0]
    assert location.grad is not None
    assert location.grad.tolist() == pytest.approx([4.0, 0.503, 4.0], abs=1e-3)
