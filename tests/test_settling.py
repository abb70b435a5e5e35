"""Whether an optimiser says that it did not come to rest."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from attribench.checking.methods import contract_subject, random_graphs
from attribench.plugins.registry import METHODS

settling: Any = importlib.import_module(METHODS["graphmask"].__module__.rpartition(".")[0] + "._settling")


@pytest.mark.parametrize(
    ("course", "checks", "expected"),
    [([4.0, 3.0, 2.0], 1, 1 / 3), ([4.0, 3.0, 2.0], 9, 0.5), ([0.0, 0.0], 1, 0), ([1.0], 3, 0), ([1.0, 2.0], 1, -1)],
)
def test_the_fall_over_the_last_checks(course: list[float], checks: int, expected: float) -> None:
    assert settling.fall(course, checks) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (torch.arange(9.0).flip(0), 0.25),  # steadily
        (torch.tensor([8.0, 4, 2, 1, 1, 1, 1, 1]), 0),
        (torch.tensor([2.0, 1]), 1),
        (torch.tensor([1.0, 2, 3]), 0),
        (torch.tensor([3.0]), 0),
    ],
)
def test_the_part_of_all_progress_that_is_late(course: torch.Tensor, expected: float) -> None:
    assert settling.late_part(course) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("falls", "noise", "steps", "rest"),
    [
        (20.0, 0.1, 800, True),
        (20.0, 0.1, 15, False),  # too few to tell
        (0.5, 0.1, 800, False),  # steadily
        (0.0, 0.1, 800, False),  # it never fell
        (20.0, 30.0, 800, False),  # or nobody can tell that it did
    ],
)
def test_what_is_at_rest_under_noise(falls: float, noise: float, steps: int, rest: bool) -> None:
    made = torch.linspace(0, 1, steps)
    values = torch.exp(-falls * made) + noise * torch.randn(steps, generator=torch.Generator().manual_seed(1))
    assert settling.at_rest(values) == rest


@pytest.mark.parametrize("name", ["graphmask-nonamortized", "gnnexplainer", "information-bottleneck"])
def test_a_few_steps_are_too_few_and_many_are_not(name: str) -> None:
    subject = contract_subject(2)
    kind = METHODS[name]
    many = {
        "graphmask-nonamortized": {"steps": 1500, "learning_rate": 0.03, "check_every": 10},
        "gnnexplainer": {"steps": 1500, "learning_rate": 0.05},
        "information-bottleneck": {"steps": 600, "learning_rate": 0.02, "weight": 10.0, "hidden": 8},
    }[name]
    said = []
    for options in (many, {**many, "steps": 10, "learning_rate": 0.001}):
        method: Any = kind(kind.Config(**options), subject=subject, seed=1)
        method.fit()
        attribution = method.explain(subject.validation)
        figures = method.figures
        said.append(bool(figures["unsettled"] or figures.get("nearly_all", 0)))
    assert said == [False, True]
    if name == "graphmask-nonamortized":  # after ten small steps all gates are open
        assert bool((attribution.diagnostics["all_open"] == 1).any()) == bool(figures["nearly_all"])


@pytest.mark.parametrize("name", ["graphmask-nonamortized", "gnnexplainer"])
@pytest.mark.parametrize("steps", [10, 600])
def test_where_parts_end_says_nothing_of_rest(name: str, steps: int) -> None:
    subject, kind, said = contract_subject(2), METHODS[name], []
    options = {"steps": steps, "learning_rate": 0.03}
    if name == "graphmask-nonamortized":
        options["check_every"] = 10
    for most in (10**6, 10):
        method: Any = kind(kind.Config(**options), subject=replace(subject, max_edges=most), seed=1)
        method.fit()
        method.explain(subject.validation)
        said.append(method.figures)
    assert said[0] == said[1]


def test_graphs_without_edges_take_nothing_from_what_is_said() -> None:
    kind, graphs = METHODS["graphmask-nonamortized"], random_graphs(5, "edges")
    bare = replace(
        graphs,
        edge_index=graphs.edge_index[:, : int(graphs.edge_ptr[4])],
        edge_ptr=graphs.edge_ptr.clamp(max=int(graphs.edge_ptr[4])),
        edge_key=graphs.edge_key[: int(graphs.edge_ptr[4])],
        edge={name: value[: int(graphs.edge_ptr[4])] for name, value in graphs.edge.items()},
    )
    assert bare.num_edges_per_graph.tolist()[-1] == 0
    method: Any = kind(kind.Config(steps=10, learning_rate=0.001), subject=contract_subject(2), seed=1)
    attribution = method.explain(bare)
    assert method.figures == {"unsettled": 0.0, "nearly_all": 1.0}
    assert attribution.diagnostics["all_open"].tolist() == [1.0] * 4 + [0.0]


@pytest.mark.parametrize(("tolerance", "unsettled"), [(1e-9, 1), (1e6, 0)])
def test_the_released_bottleneck_is_not_at_rest_beyond_its_tolerance(tolerance: float, unsettled: int) -> None:
    kind = METHODS["information-bottleneck"]
    options = {"steps": 600, "learning_rate": 0.02, "hidden": 8, "released_variant": True, "tolerance": tolerance}
    method: Any = kind(kind.Config(**options), subject=contract_subject(2), seed=1)
    method.fit()
    assert method.figures["unsettled"] == unsettled


def test_what_is_no_number_is_not_at_rest() -> None:
    course = settling.Course()
    assert course.unsettled
    course.add([torch.tensor(3.0), torch.tensor(1.0), torch.tensor(1.0)])
    assert not course.unsettled
    course.add([torch.tensor(3.0), torch.tensor(torch.nan), torch.tensor(1.0)])
    assert course.unsettled
