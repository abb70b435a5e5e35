"""Timings as ratios inside one run: two things each, said in words, and which way is better.

Machines are shared and noisy, so every ratio compares what is measured in turn, several times, by medians; but a run of
many cells, which is made once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from .api import run
from .base.errors import UserError
from .base.files import write_atomically
from .base.names import base_name
from .explaining.costs import PeakMemory, Stopwatch
from .model.driver_list import layers_without_messages
from .model.gates import Gates
from .model.graphs import GraphBatch
from .model.model import GraphModel
from .plugins.configs import make_config, variant_options
from .plugins.method import Method, Subject
from .plugins.registry import METHODS, TASKS
from .plugins.task import Problem, Task, TaskSeeds, Workshop, build_problem, without_cache
from .scoring.judge import Judge

GROWTH = 10
"""Factor between the two batch sizes of the growth figure."""

PARTS = 4
"""Parts in which scoring is timed."""

NODES = (250, 500)
"""Of the examples by which it is timed how a pass grows with a graph."""

MOST_GRAPHS = 500
"""How many are explained at once, unless told otherwise, where there are ten times as many."""

ENOUGH_SECONDS = 120.0
"""Measuring that has taken longer than this is not repeated."""


@dataclass(frozen=True)
class Measured:
    """A row: ours, the other, and their ratio.

    Args:
        method: that was measured; empty where it is the harness.
        ours_is, other_is: what was timed.
        ours, other: seconds.
        ratio: of ours to the other where lower is better, else of the other to ours.
        better: which way the ratio is.
        peak_mib: peak memory of ours, where it was measured.
    """

    method: str
    ours_is: str
    ours: float
    other_is: str
    other: float
    ratio: float
    better: Literal["lower", "higher"]
    peak_mib: float | None = None


def run_bench(
    device: torch.device,
    task: str,
    methods: list[str],
    num_graphs: int | None,
    out: Path,
    console: Console,
    cells: int = 0,
    plugins: Sequence[str] = (),
) -> None:
    """Time the methods on ``num_graphs`` graphs of a task, and a run of ``cells`` small ones; write ``bench.csv``.

    Where it is None there are as many graphs as leave ten times as many, ``MOST_GRAPHS`` at most.
    """
    rows: list[Measured] = []
    for name in methods:
        if "[" in name:
            raise UserError(f"expected methods without options; bench times the defaults; got {name!r}")
    built, problem = _problem(task, device, GROWTH * (num_graphs or MOST_GRAPHS))
    num_graphs = _how_many(task, problem, num_graphs)
    bench = Bench(problem, num_graphs, device)
    for name in methods:
        reason = METHODS[name].reason_against(bench.subject)
        if reason is not None:
            console.print(f"{name}: not timed: {reason}")
            continue
        for measure in (bench.against_rivals, bench.step_over_bare_pass, bench.growth, bench.scoring_in_parts):
            rows += measure(METHODS[name])
    rows += bench.forms(built)
    if cells:
        rows += many_cells(task, methods, cells, device, plugins)
    where, threads = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", torch.get_num_threads()
    frame = pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(Measured)])
    frame = frame.assign(task=task, device=where, threads=threads)
    write_atomically(out / "bench.csv", lambda draft: frame.to_csv(draft, index=False, float_format="%.4g"))
    console.print(f"{task}, {num_graphs} graphs, {where}, {threads} thread(s)")
    table = Table(box=box.SIMPLE)
    for heading in ("method", "ours", "other"):
        table.add_column(heading)
    for heading in ("ratio", "better", "peak MiB"):
        table.add_column(heading, justify="left" if heading == "better" else "right")
    for row in rows:
        told = (f"{_seconds(time)}: {what}" for time, what in ((row.ours, row.ours_is), (row.other, row.other_is)))
        table.add_row(row.method, *told, f"{row.ratio:.3g}", row.better, f"{row.peak_mib:.0f}" if row.peak_mib else "")
    console.print(table)


def many_cells(
    task: str, methods: Sequence[str], count: int, device: torch.device, plugins: Sequence[str] = ()
) -> list[Measured]:
    """Run ``count`` cells of a task and methods at the sizes they are tested with; return what is beside their work."""
    settings = {base_name(task): dict(TASKS[task].quick), **{name: dict(METHODS[name].quick) for name in methods}}
    with TemporaryDirectory() as folder:
        results = run(
            task=task, methods=",".join(methods), seeds=math.ceil(count / len(methods)), settings=settings,
            device=str(device), threads=torch.get_num_threads(), out=f"{folder}/run", cache_dir=f"{folder}/cache",
            plugin=list(plugins),
        )  # fmt: skip
    assert results.ending is not None
    if results.ending.done < results.ending.planned:
        raise KeyboardInterrupt
    taken, what = results.ending.seconds, f"a run of {results.ending.planned} small cells"
    return [
        Measured(
            "", f"{what}, of all processes", taken["there"], "building, explaining and scoring in it", taken["worked"],
            taken["there"] / taken["worked"], "lower",
        ),
        Measured(
            "", f"tables of {what}", taken["tables"], "the run", taken["there"], taken["tables"] / taken["there"],
            "lower",
        ),
    ]  # fmt: skip


def _problem(task: str, device: torch.device, size: int) -> tuple[Task, Problem]:
    """Return a task, and its problem with ``size`` test graphs where there are so many."""
    kind = TASKS[task]
    options = {**variant_options(task), kind.size_option: size}
    if not hasattr(kind.Config(), kind.size_option):
        raise UserError(
            f"expected a task with an option {kind.size_option!r} for the number of graphs; {task!r} has none"
        )
    built = kind(make_config(base_name(task), kind.Config, options))
    return built, build_problem(built, TaskSeeds(0, 0), Workshop(device, without_cache))


def _how_many(task: str, problem: Problem, wanted: int | None) -> int:
    """Return how many graphs are explained at once.

    Raises:
        UserError: where there are not ten times as many.
    """
    found = problem.splits["test"].graphs.num_graphs
    count = min(MOST_GRAPHS, found // GROWTH) if wanted is None else wanted
    if not 0 < GROWTH * count <= found:
        least = GROWTH * max(1, count)
        raise UserError(f"expected {least} test graphs, {GROWTH} times --graphs; {task!r} has {found}: ask for fewer")
    return count


class Bench:
    """Measures methods on one problem."""

    def __init__(self, problem: Problem, num_graphs: int, device: torch.device) -> None:
        self.problem = problem
        self.subject = problem.subject()
        self.device = device
        self.many = problem.splits["test"].graphs
        self.graphs = self.many.select(torch.arange(num_graphs, device=device))

    def seconds(self, *actions: Callable[[], Any], repeats: int = 3) -> list[float]:
        """Return the median seconds of each action, run in turn ``repeats`` times after one warm-up.

        Fewer times where it takes longer than ``ENOUGH_SECONDS``.
        """
        taken: list[list[float]] = [[] for _ in actions]
        start = time.perf_counter()
        for repeat in range(repeats + 1):
            if repeat > 1 and time.perf_counter() - start > ENOUGH_SECONDS:
                break
            for action, record in zip(actions, taken, strict=True):
                with Stopwatch(self.device) as watch:
                    action()
                if repeat:
                    record.append(watch.seconds)
        return [statistics.median(record) for record in taken]

    def against_rivals(self, kind: type[Method]) -> list[Measured]:
        """Return seconds per graph of ours and of each rival that can, and how many times slower the rival is."""
        rows = []
        for rival in kind.rivals:
            if not set(rival.reads) <= set(self.graphs.node):
                continue
            if rival.needs_messages and layers_without_messages(self.subject.model):
                continue
            method = kind(subject=self.subject)
            method.fit()
            count = rival.sample or self.graphs.num_graphs
            chosen = [self.graphs.select(torch.tensor([g], device=self.device)) for g in range(rival.sample or 0)]

            # A rival may leave its marks on the model (PyG's GNNExplainer does), so each has a copy.
            subject = replace(self.subject, model=deepcopy(self.subject.model))

            def other(
                rival: Any = rival,
                subject: Subject = subject,
                chosen: list[GraphBatch] = chosen,
                method: Method = method,
            ) -> None:
                for batch in chosen or [self.graphs]:
                    rival.explain(subject, batch, method.config)

            ours, theirs = self.seconds(partial(method.attribute, self.graphs), other, repeats=2)
            ours, theirs = ours / self.graphs.num_graphs, theirs / count
            rows.append(
                Measured(
                    kind.name, f"a graph, of {self.graphs.num_graphs} together", ours, f"a graph, by {rival.name}",
                    theirs, theirs / ours, "higher",
                )
            )  # fmt: skip
        return rows

    def step_over_bare_pass(self, kind: type[Method]) -> list[Measured]:
        """Return the time of one optimisation step over a bare forward and backward pass of the same batch."""
        if kind.steps_option is None:
            return []
        option, phase = kind.steps_option
        default = getattr(kind.Config(), option)
        few, more = max(1, default // 8), max(2, default // 4)
        batch_size = getattr(kind.Config(), "batch_size", self.graphs.num_graphs)
        graphs = self.subject.train if phase == "fit" else self.graphs
        train = graphs.select(torch.arange(min(graphs.num_graphs, 32 * batch_size), device=self.device))
        batch = train.select(torch.arange(min(batch_size, train.num_graphs), device=self.device))
        subject = replace(self.subject, train=train, validation=batch)

        def work(steps: int) -> Callable[[], Any]:
            quiet = {name: value for name, value in kind.quick.items() if name != option}
            method = kind(make_config(kind.name, kind.Config, {**quiet, option: steps}), subject=subject)
            return method.fit if phase == "fit" else lambda: method.attribute(batch)

        # As many passes as steps, so that what disturbs the machine for a moment disturbs both alike.
        def bare() -> None:
            for module in subject.model.modules():  # cuDNN goes back through a recurrent layer in training mode alone
                module.train(isinstance(module, nn.RNNBase))
            for _ in range(more - few):
                subject.model.zero_grad()
                subject.model(batch).sum().backward()
            subject.model.eval()

        short, long, passes = self.seconds(work(few), work(more), bare, repeats=7)
        subject.model.zero_grad()
        step, bare_pass = (long - short) / (more - few), passes / (more - few)
        what = f"a step, on {batch.num_graphs} graphs"
        return [
            Measured(kind.name, what, step, "a bare forward and backward pass", bare_pass, step / bare_pass, "lower")
        ]

    def growth(self, kind: type[Method]) -> list[Measured]:
        """Return the time for ten times as many graphs over ten times the time, 1 being linear, and the peak memory."""
        option = kind.steps_option
        steps = (
            {} if option is None or option[1] == "fit" else {option[0]: max(1, getattr(kind.Config(), option[0]) // 40)}
        )
        method = kind(make_config(kind.name, kind.Config, {**kind.quick, **steps}), subject=self.subject)
        method.fit()
        with PeakMemory(self.device) as memory:
            few, many = self.seconds(lambda: method.explain(self.graphs), lambda: method.explain(self.many), repeats=7)
        less, more = (f"explaining {batch.num_graphs} graphs" for batch in (self.graphs, self.many))
        ratio = many / few / GROWTH
        return [
            Measured(kind.name, more, many, f"{less}, {GROWTH} times", GROWTH * few, ratio, "lower", memory.mebibytes)
        ]

    def scoring_in_parts(self, kind: type[Method]) -> list[Measured]:
        """Return the time of scoring a method and its controls in parts over that in one pass."""
        splits = {name: self.problem.splits[name] for name in ("validation", "test")}
        chosen = {
            name: split.select(torch.arange(min(split.graphs.num_graphs, self.graphs.num_graphs), device=self.device))
            for name, split in splits.items()
        }
        problem = replace(self.problem, splits={**self.problem.splits, **chosen}, known=self.problem.findings)
        method = kind(make_config(kind.name, kind.Config, kind.quick), subject=self.subject)
        method.fit()
        attributions = {name: method.explain(split.graphs) for name, split in chosen.items()}
        edges = chosen["test"].graphs.num_edges

        def score(max_edges: int) -> None:
            with Judge(problem, max_edges) as judge:
                judge.method_and_controls(kind.name, attributions, 0)

        parts, whole = self.seconds(partial(score, max(1, edges // PARTS)), partial(score, max(1, edges)))
        what = f"scoring {chosen['test'].graphs.num_graphs} graphs in"
        return [Measured(kind.name, f"{what} {PARTS} parts", parts, f"{what} one", whole, parts / whole, "lower")]

    def forms(self, task: Task) -> list[Measured]:
        """Return the time of a gated pass in each form of the model over that in the next, and how each grows."""
        passes: dict[str, Callable[[GraphBatch], Callable[[], Any]]] = {
            name: partial(_gated_pass, model) for name, model in task.forms(self.problem.model).items()
        }
        rows, names = list[Measured](), list(passes)
        examples = [task.example(self.problem, nodes) for nodes in NODES]
        for name, other in pairwise(names):
            ours, theirs = self.seconds(passes[name](self.graphs), passes[other](self.graphs))
            what = f"a gated pass, forwards and backwards, over {self.graphs.num_graphs} graphs"
            rows.append(Measured("", f"{what}, {name}", ours, f"the same, {other}", theirs, ours / theirs, "lower"))
        small, large = examples
        if small is None or large is None:
            return rows
        for name in names:
            few, many = self.seconds(passes[name](small), passes[name](large))
            times = large.num_edges / small.num_edges
            what = f"a gated pass over a graph of {large.num_nodes} nodes and {large.num_edges} edges, {name}"
            other = f"over one of {small.num_nodes} nodes, {times:.3g} times"
            rows.append(Measured("", what, many, other, times * few, many / few / times, "lower"))
        return rows


def _gated_pass(model: GraphModel, graphs: GraphBatch) -> Callable[[], Any]:
    """Return what makes a pass through gates of a recorded batch, and one back to the gates."""
    with Gates(model) as gates:
        recording = gates.record(graphs)

    def run() -> None:
        z = recording.ones().requires_grad_()
        with gates:
            recording.forward(z).sum().backward()

    return run


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
