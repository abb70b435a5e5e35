"""Timings as ratios inside one run: against other implementations, against a bare pass, and growth with the batch.

Machines are shared and noisy, so every ratio compares two things measured in turn, several times, by their medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.names import base_name
from ..explaining.costs import PeakMemory, Stopwatch
from ..model.graphs import GraphBatch
from ..plugins.configs import make_config, variant_options
from ..plugins.method import Method, Subject
from ..plugins.registry import METHODS, TASKS
from ..plugins.task import Problem, TaskSeeds, Workshop, build_problem, without_cache

GROWTH = 10
"""Factor between the two batch sizes of the growth figure."""

ENOUGH_SECONDS = 120.0
"""Measuring that has taken longer than this is not repeated."""


def run_bench(
    device: torch.device, task: str, methods: list[str], num_graphs: int, out: Path, console: Console
) -> None:
    """Time the methods on ``num_graphs`` graphs of a task; print the table and write ``bench.csv``."""
    problem = _problem(task, device, num_graphs * GROWTH)
    bench = Bench(problem, num_graphs, device)
    rows: list[dict[str, Any]] = []
    for name in methods:
        if "[" in name:
            raise UserError(f"expected methods without options; bench times the defaults; got {name!r}")
        reason = METHODS[name].reason_against(bench.subject)
        if reason is not None:
            console.print(f"{name}: not timed: {reason}")
            continue
        for measure in (bench.against_rivals, bench.step_over_bare_pass, bench.growth):
            rows += measure(METHODS[name])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    frame = pd.DataFrame(rows).assign(task=task, device=where, threads=torch.get_num_threads())
    write_atomically(out / "bench.csv", lambda draft: frame.to_csv(draft, index=False, float_format="%.4g"))
    table = Table(title=f"{task}, {num_graphs} graphs, {where}, {torch.get_num_threads()} thread(s)", box=box.SIMPLE)
    for heading in ("method", "what", "ours", "other", "ratio", "peak MiB"):
        table.add_column(heading, justify="left" if heading in ("method", "what") else "right")
    for row in rows:
        times, peak = (_seconds(row["ours"]), _seconds(row["other"])), row.get("peak_mib")
        table.add_row(row["method"], row["what"], *times, f"{row['ratio']:.3g}", f"{peak:.0f}" if peak else "")
    console.print(table)


def _problem(task: str, device: torch.device, size: int) -> Problem:
    """Build a task whose test split has ``size`` graphs."""
    kind = TASKS[task]
    options = {**variant_options(task), kind.size_option: size}
    if not hasattr(kind.Config(), kind.size_option):
        raise UserError(
            f"expected a task with an option {kind.size_option!r} for the number of graphs; {task!r} has none"
        )
    config = make_config(base_name(task), kind.Config, options)
    problem = build_problem(kind(config), TaskSeeds(0, 0), Workshop(device, without_cache))
    found = problem.splits["test"].graphs.num_graphs
    if found < size:
        raise UserError(f"expected {size} test graphs, {GROWTH} times --graphs; {task!r} has {found}: ask for fewer")
    return problem


class Bench:
    """Measures methods on one problem."""

    def __init__(self, problem: Problem, num_graphs: int, device: torch.device) -> None:
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

    def against_rivals(self, kind: type[Method]) -> list[dict[str, Any]]:
        """Return seconds per graph of ours and of each rival that can, and how many times slower the rival is."""
        rows = []
        for rival in kind.rivals:
            if not set(rival.reads) <= set(self.graphs.node):
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
            per_graph = ours / self.graphs.num_graphs, theirs / count
            rows.append(_row(kind, f"seconds per graph; {rival.name}", *per_graph, per_graph[1] / per_graph[0]))
        return rows

    def step_over_bare_pass(self, kind: type[Method]) -> list[dict[str, Any]]:
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
        return [
            _row(
                kind,
                f"step over bare forward and backward, {batch.num_graphs} graphs",
                step,
                bare_pass,
                step / bare_pass,
            )
        ]

    def growth(self, kind: type[Method]) -> list[dict[str, Any]]:
        """Return the time for ten times as many graphs over ten times the time, 1 being linear, and the peak memory."""
        option = kind.steps_option
        steps = (
            {} if option is None or option[1] == "fit" else {option[0]: max(1, getattr(kind.Config(), option[0]) // 40)}
        )
        method = kind(make_config(kind.name, kind.Config, {**kind.quick, **steps}), subject=self.subject)
        method.fit()
        with PeakMemory(self.device) as memory:
            few, many = self.seconds(lambda: method.explain(self.graphs), lambda: method.explain(self.many), repeats=7)
        what = f"{self.graphs.num_graphs} against {self.many.num_graphs} graphs; 1 is linear"
        return [{**_row(kind, what, many, few, many / few / GROWTH), "peak_mib": memory.mebibytes}]


def _row(kind: type[Method], what: str, ours: float, other: float, ratio: float) -> dict[str, Any]:
    return {"method": kind.name, "what": what, "ours": ours, "other": other, "ratio": ratio}


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
