"""Counter-based noise: its distribution, its independence of the batch, and its values by plain integer arithmetic."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import bare_batch
from scipy import stats
from torch import Tensor

from attribench.model.noise import EdgeNoise, mix

MODULUS = 1 << 64
BATCH = bare_batch([10] * 500)


def plain_mix(z: int) -> int:
    """SplitMix64's finaliser on integers modulo 2^64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % MODULUS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % MODULUS
    return z ^ (z >> 31)


def plain_hash(seed: int, graph: int, edge: int, layer: int, step: int) -> int:
    total = seed * 0x9E3779B97F4A7C15 + graph * 0x6A09E667F3BCC909 + layer * 0xBB67AE8584CAA73B
    return plain_mix((total + edge * 0x3C6EF372FE94F82B + step * 0xA54FF53A5F1D36F1) % MODULUS)


def test_mix_is_splitmix64() -> None:
    golden, first_output_for_seed_0 = 0x9E3779B97F4A7C15, 0xE220A8397B1DCDAF  # of the reference implementation
    assert plain_mix(golden) == first_output_for_seed_0
    assert int(mix(torch.tensor(golden - MODULUS))) % MODULUS == first_output_for_seed_0


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**64 + 5])
@pytest.mark.parametrize("step", [0, 3, 12345])
def test_values_by_integer_arithmetic(seed: int, step: int) -> None:
    batch = bare_batch([2, 0, 3]).select(torch.tensor([2, 0]))
    noise = EdgeNoise(batch, 2, seed)
    for layer in range(2):
        for column, (graph, edge) in enumerate([(2, 0), (2, 1), (2, 2), (0, 0), (0, 1)]):
            value = plain_hash(seed, graph, edge, layer, step)
            assert int(noise.rank(step)[layer, column]) % MODULUS == value
            assert float(noise.uniform(step, torch.float64)[layer, column]) == ((value >> 12) + 0.5) / 2**52


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 0), (0, 7), (2**62, 2000)])
def test_draws_are_uniform_and_normal(seed: int, step: int) -> None:
    noise = EdgeNoise(BATCH, 4, seed)  # 20,000 draws
    assert stats.kstest(noise.uniform(step).flatten().numpy(), "uniform").pvalue > 1e-3
    normal = noise.normal(step, torch.float64).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    np.testing.assert_allclose(stats.norm.cdf(normal), noise.uniform(step, torch.float64).flatten(), atol=1e-12)


def one_apart(what: str) -> tuple[Tensor, Tensor]:
    """Draws whose seeds, steps, layers, edges or graphs are neighbours."""
    draws = EdgeNoise(BATCH, 4, 5).uniform(0, torch.float64)
    by_edge = draws.view(4, 500, 10)
    pairs: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "seed": lambda: (draws, EdgeNoise(BATCH, 4, 6).uniform(0, torch.float64)),
        "step": lambda: (draws, EdgeNoise(BATCH, 4, 5).uniform(1, torch.float64)),
        "layer": lambda: (draws[:-1], draws[1:]),
        "edge": lambda: (by_edge[..., :-1], by_edge[..., 1:]),
        "graph": lambda: (by_edge[:, :-1], by_edge[:, 1:]),
    }
    first, second = pairs[what]()
    return first.flatten(), second.flatten()


@pytest.mark.parametrize("what", ["seed", "step", "layer", "edge", "graph"])
def test_neighbouring_streams_are_independent(what: str) -> None:
    first, second = one_apart(what)
    assert not (first == second).any()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4 / len(first) ** 0.5
    cells = torch.bincount((first * 8).long() * 8 + (second * 8).long(), minlength=64)
    assert stats.chisquare(cells.numpy()).pvalue > 1e-3


def test_all_draws_differ() -> None:
    draws = torch.cat([EdgeNoise(BATCH, 4, seed).rank(step) for seed in range(3) for step in range(3)])
    assert draws.unique().numel() == draws.numel()


@pytest.mark.parametrize("kind", ["rank", "uniform", "normal"])
def test_draws_of_a_graph_do_not_depend_on_the_batch_or_on_the_order_of_edges(kind: str) -> None:
    batch = bare_batch([4, 1, 6, 3])
    index = torch.tensor([3, 0, 2])
    whole = getattr(EdgeNoise(batch, 2, 9), kind)(4)
    part = getattr(EdgeNoise(batch.select(index), 2, 9), kind)(4)
    assert torch.equal(part, whole[:, batch.edges_of(index)])
    order = torch.tensor([3, 1, 0, 2, 4, 10, 9, 8, 7, 6, 5, 11, 13, 12])
    assert torch.equal(getattr(EdgeNoise(batch.reorder_edges(order), 2, 9), kind)(4), whole[:, order])
    deeper = getattr(EdgeNoise(batch, 3, 9), kind)(4)
    assert torch.equal(deeper[:2], whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_0_or_1_whatever_the_hash(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    extremes = torch.tensor([[0, -1, 1, -2, 2**63 - 1, -(2**63)]])  # as unsigned: 0, the largest, ...
    monkeypatch.setattr(EdgeNoise, "rank", lambda self, step=0: extremes)
    noise = EdgeNoise(bare_batch([6]), 1, 0)
    uniform = noise.uniform(0, dtype)
    assert uniform.dtype == dtype
    assert bool(((uniform > 0) & (uniform < 1)).all())
    assert float(uniform[0, 0]) < 1e-15
    assert float(1 - uniform[0, 1]) < 1e-7
    assert bool(noise.normal(0, dtype).isfinite().all())
    assert float(noise.normal(0, dtype)[0, 1]) > 8
