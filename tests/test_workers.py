"""What a run is made of, piece by piece: a cell's endings, worker processes, progress."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pebble import ProcessExpired
from rich.console import Console

from attribench.base.errors import Infeasible, StorageError, first_line
from attribench.base.files import remove_old_drafts, write_json
from attribench.base.pieces import Cell, Piece, ProblemSpec
from attribench.base.progress import Progress, Tracker
from attribench.checking.methods import contract_subject, random_graphs
from attribench.explaining.job import Job, Outcome, status_of
from attribench.model.gates import UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.output import GraphClassification
from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import Problem, Split, Task, TaskSeeds, Workshop
from attribench.running import pool, printed, worker
from attribench.running.execution import Execution
from attribench.running.expected import Expected
from attribench.running.options import Overwrite
from attribench.running.plan import Plan
from attribench.running.pool import Workers, default_jobs
from attribench.running.runner import Runner
from attribench.running.speaking import Listening, Speaking
from attribench.scoring.judge import Judge
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache

HANG = 30.0
"""Seconds after which what is awaited counts as lost."""
CPU = torch.device("cpu")


def plan(methods: str = "integrated-gradients,gnnexplainer", seeds: int = 2, **options: Any) -> Plan:
    return Plan(
        **{"tasks": ["toy"], "methods": methods.split(","), "overrides": {}, "device": "cpu", **options},
        seeds=list(range(seeds)),
    )


def workers(runner: Runner, timeout: float | None = None) -> Workers:
    return Workers(runner, Progress(Console(quiet=True)), 2, timeout, "failed")


def test_what_a_piece_is_called() -> None:
    cell = Cell("toy", "graphmask", 3, 3, 3)
    assert cell.title == "toy · graphmask · seed 3"
    assert cell.problem.title == "toy · seed 3"
    other = Cell("toy", "graphmask", 3, 3, 4)
    assert other.title == "toy · graphmask · seed 3/3/4"
    assert other.problem.title == "toy · seed 3"
    assert ProblemSpec("toy", 3, 4).title == "toy · seed 3/4"


def test_jobs_share_the_cores_and_a_gpu_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [default_jobs(plan(threads=threads)) for threads in (1, 2, 4, 8)] == [6, 3, 1, 1]
    assert default_jobs(plan(device="cuda")) == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("no\nluck"), "failed", "ValueError: no"),
        (ValueError(), "failed", "ValueError: "),
        (KeyError("x"), "failed", "KeyError: 'x'"),
        (MemoryError(), "out-of-memory", "MemoryError: "),
        (torch.OutOfMemoryError("CUDA out of memory."), "out-of-memory", "OutOfMemoryError: CUDA out of memory."),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when"), "out-of-memory", "RuntimeError: CUBLAS_STATUS_ALLOC_FAILED"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "out-of-memory", "RuntimeError: Default"),
        (ValueError("out of memory"), "failed", "ValueError: out of memory"),
        (RuntimeError("shapes do not match"), "failed", "RuntimeError: shapes"),
        (Infeasible("nothing sparser\nwas found"), "infeasible", "nothing sparser"),
        (UnsupportedModelError("expected gates"), "skipped", "expected gates"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_status_and_reason_of_an_error(error: BaseException, status: str, line: str) -> None:
    assert status_of(error) == status
    assert first_line(error).startswith(line)
    assert "\n" not in first_line(error)


def test_torchs_own_allocation_error_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as info:
        torch.empty(2**50)
    assert status_of(info.value) == "out-of-memory"


def make_problem(count: int = 40) -> Problem:
    """A problem without training or gold: the contract suite's model on random graphs of 4 to 10 edges."""
    model = contract_subject(2).model
    splits = {}
    for name in ("train", "validation", "test"):
        graphs = random_graphs(count, name)
        splits[name] = Split(graphs, torch.zeros(graphs.num_graphs, dtype=torch.long))
    return Problem(model, GraphClassification(), splits)


class Probe(Method):
    """Scores each edge by its sources; before that, does what it is told."""

    name = "probe"
    limits: list[int] = []

    def act(self, graphs: GraphBatch) -> None:
        """Fail, or not."""

    def fit(self) -> None:
        self.limits.append(self.subject.max_edges)

    def attribute(self, graphs: GraphBatch) -> Attribution:
        self.act(graphs)
        scores = graphs["x"][graphs.edge_index[0], 0]
        return Attribution(scores.expand(self.subject.num_layers, -1), scale="relative")


def run_job(
    act: Callable[[Probe, GraphBatch], None], max_edges: int = 400, randomised: int = 0, **members: Any
) -> tuple[Outcome, list[int]]:
    """Run a method with these members; return how it ended, and the limits with which it was fitted."""
    kind: Any = type("Acts", (Probe,), {"act": act, "limits": [], **members})
    return Job(kind, None, Cell("task", "probe", 0, 0, 0), make_problem(), max_edges, randomised).run(), kind.limits


def well(method: Probe, graphs: GraphBatch) -> None:
    """Do nothing."""


def test_a_job_that_is_well() -> None:
    outcome, limits = run_job(well, randomised=10)
    assert (outcome.status, outcome.reason, outcome.log) == ("ok", "", "")
    assert set(outcome.attributions) == {"validation", "test", "randomised"}
    assert limits == [400, 400]
    assert "max_edges" not in outcome.costs


def raising(error: BaseException, above: int = 0) -> Callable[[Probe, GraphBatch], None]:
    def act(method: Probe, graphs: GraphBatch) -> None:
        if graphs.num_edges > above:
            raise error

    return act


@pytest.mark.parametrize(("most", "expected"), [(400, [400, 100, 25, 6]), (5, [5, 1, 1, 1])])
def test_memory_that_always_runs_out_ends_the_cell_after_four_attempts(
    most: int, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    outcome, limits = run_job(raising(MemoryError("no room")), most)
    assert outcome.status == "out-of-memory"
    assert outcome.reason.startswith("MemoryError: no room (")
    assert limits == expected
    assert outcome.costs["max_edges"] == expected[-1]
    assert "in act" in outcome.log
    pairs = zip(limits, caplog.messages, strict=True)
    assert all(f"at most {limit} edges a pass" in message for limit, message in pairs)


def test_memory_that_is_enough_for_smaller_passes_gives_the_same_scores() -> None:
    whole, _ = run_job(well)
    outcome, limits = run_job(raising(torch.OutOfMemoryError("out of memory"), above=60))
    assert (outcome.status, outcome.log, limits) == ("ok", "", [400, 100, 25])
    assert outcome.costs["max_edges"] == 25
    for name, attribution in whole.attributions.items():
        assert torch.equal(outcome.attributions[name].scores, attribution.scores)


def test_memory_that_runs_out_for_shuffled_weights_is_tried_again_too() -> None:
    def act(method: Probe, graphs: GraphBatch) -> None:
        if len(method.limits) == 2:
            raise MemoryError

    outcome, limits = run_job(act, randomised=10)
    assert (outcome.status, limits) == ("ok", [400, 400, 100, 100])
    assert "randomised" in outcome.attributions


@pytest.mark.parametrize("error", [RuntimeError("no luck"), SystemExit(3)])
def test_another_error_ends_the_cell_at_once(error: BaseException) -> None:
    outcome, limits = run_job(raising(error))
    assert (outcome.status, outcome.reason) == ("failed", first_line(error))
    assert limits == [400]
    assert f"in act\n    raise error\n{type(error).__name__}" in outcome.log
    assert {"fit_seconds", "fit_forward_passes"} <= set(outcome.costs)


def test_a_fit_that_finds_nothing_says_what_it_came_to_all_the_same() -> None:
    def act(method: Probe, graphs: GraphBatch) -> None:
        method.figures["retained"] = 0.75
        raise Infeasible("nothing found")

    outcome, _ = run_job(act)
    assert (outcome.status, outcome.figures) == ("infeasible", {"retained": 0.75})


@pytest.mark.parametrize("error", [RuntimeError("no luck"), SystemExit(3), Infeasible("nothing found")])
def test_a_failure_for_shuffled_weights_is_a_figure(error: BaseException) -> None:
    def act(method: Probe, graphs: GraphBatch) -> None:
        if len(method.limits) == 2:
            raise error

    outcome, _ = run_job(act, randomised=10)
    assert (outcome.status, outcome.figures) == ("ok", {"randomised_failed": 1.0})
    assert set(outcome.attributions) == {"validation", "test"}


def test_a_method_that_finds_nothing_or_supports_no_such_model_has_no_log() -> None:
    outcome, _ = run_job(raising(Infeasible("nothing\nfound")))
    assert (outcome.status, outcome.reason, outcome.log) == ("infeasible", "nothing", "")
    outcome, limits = run_job(well, supports=classmethod(lambda *_: "too deep"))
    assert (outcome.status, outcome.reason, limits) == ("skipped", "too deep", [])


def test_nan_and_unfinished_graphs_are_said() -> None:
    def nan(method: Probe, graphs: GraphBatch) -> Attribution:
        return Attribution(torch.full((2, graphs.num_edges), torch.nan))

    def half(method: Probe, graphs: GraphBatch) -> Attribution:
        return Attribution(torch.zeros(2, graphs.num_edges), complete=graphs.graph_key < 3 + 7 * 30)

    outcome, _ = run_job(well, attribute=nan)
    assert outcome.status == "failed"
    assert "NaN" in outcome.reason
    outcome, _ = run_job(well, attribute=half)
    assert (outcome.status, outcome.reason) == ("partial", "30 of 40 graphs finished")


@pytest.mark.parametrize("most", [1, 3, 10, 10**6])
def test_parts_of_a_method_make_the_whole(most: int) -> None:
    def attribute(method: Probe, graphs: GraphBatch) -> Attribution:
        scores = graphs["x"][graphs.edge_index[0], 0].expand(2, -1)
        own = graphs["x"][graphs.node_ptr[:-1]]
        return Attribution(
            scores,
            "relative",
            hard_mask=scores > 0,
            baselines=(own[:, :3], torch.ones(4)),
            diagnostics={"nodes": graphs.num_nodes_per_graph},
            complete=own[:, 0] > 0,
        )

    outcomes = [run_job(well, limit, attribute=attribute)[0] for limit in (10**6, most)]
    whole, split = (outcome.attributions["test"] for outcome in outcomes)
    for name in ("scores", "hard_mask", "complete"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
    assert torch.equal(whole.diagnostics["nodes"], split.diagnostics["nodes"])
    assert whole.baselines is not None
    assert split.baselines is not None
    assert all(torch.equal(a, b) for a, b in zip(whole.baselines, split.baselines, strict=True))


class Report:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __call__(self, *content: Any) -> None:
        self.heard.append(content)

    phase = __call__

    def await_count(self, count: int) -> list[tuple[Any, ...]]:
        """Return what was heard once there is so much."""
        end = time.monotonic() + HANG
        while len(self.heard) < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.heard


def test_a_tracker_yields_everything_and_reports_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report()
    tracker = Tracker(report)
    clock = iter(range(100))
    monkeypatch.setattr("attribench.base.progress.time.monotonic", lambda: next(clock))
    tracker.prefix = "toy: "
    assert list(tracker(range(3), "steps")) == [0, 1, 2]
    tracker.end()
    assert report.heard == [("toy: steps", k, 3) for k in (0, 0, 1, 2)] + [("", 0, None)]


def test_a_tracker_reports_seldom_and_knows_the_total_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report()
    monkeypatch.setattr("attribench.base.progress.time.monotonic", lambda: 0.0)
    assert list(Tracker(report)(["a", "b"], "letters")) == ["a", "b"]
    assert list(Tracker(report)(iter("ab"), "letters")) == ["a", "b"]
    assert list(Tracker(report)(iter("ab"), "letters", 2)) == ["a", "b"]
    assert report.heard == [("letters", 0, 2), ("letters", 0, None), ("letters", 0, 2)]


def test_progress_draws_the_run_and_what_each_process_does() -> None:
    file = io.StringIO()
    with Progress(Console(file=file, force_terminal=True, width=100)) as progress:
        progress.overall("toy", 1, 4)
        progress.phase(7, "fitting [graphmask]", 3, 10)
        progress.phase(8, "probing", 0, None)
        progress.phase(9, "", 0, None)  # of a process that did nothing
        progress._bars.refresh()
        assert all(text in file.getvalue() for text in ("toy", "1/4", "fitting [graphmask]", "3/10", "probing"))
        progress.phase(7, "", 0, None)
        progress.phase(8, "", 0, None)
        assert len(progress._bars.tasks) == 1
        progress.overall("toy", 2, 4)
        assert len(progress._bars.tasks) == 1


def test_progress_is_silent_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    with Progress(Console(file=file)) as progress:
        progress.overall("toy", 1, 4)
        progress.phase(7, "fitting", 3, 10)
    assert file.getvalue().strip() == ""


def test_a_workers_progress_and_messages_reach_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    report = Report()
    with Listening(cast(Progress, report)) as (address, key):
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"another")
        speaking = Speaking(address, key)
        speaking.phase("fitting", 1, 3)
        record = logging.LogRecord("attribench.x", logging.WARNING, __file__, 1, "%s is %d", ("x", 3), None)
        speaking.emit(record)
        speaking.phase("fitting", 2, None)
        heard = report.await_count(2)
        assert [content[1:] for content in heard] == [("fitting", 1, 3), ("fitting", 2, None)]
        assert caplog.record_tuples == [("attribench.x", logging.WARNING, "x is 3")]
        garbled = Client(address, authkey=key)
        garbled.send_bytes(b"{")
        speaking.phase("probing", 0, 1)
        speaking._connection.close()
        assert ("probing", 0, 1) in [content[1:] for content in report.await_count(5)]
        assert len(report.await_count(5)) == 5  # both that end are said to do nothing any more
        speaking.phase("to nobody", 0, 1)


@pytest.mark.parametrize(
    ("code", "text"),
    [(3, "exit code 3"), (-9, "signal 9 (SIGKILL)"), (-11, "signal 11 (SIGSEGV)"), (-99, "exit code -99")],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert pool._exit(code) == text


class Tiny(Task):
    """A task without training."""

    name = "tiny"

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        return make_problem(12)


class Counted(Probe):
    """A method that counts its fits."""

    name = "counted"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Runner]:
    """Return how to make a runner of a tiny task."""
    for registry, plugin in ((METHODS, Counted), (TASKS, Tiny)):
        list(registry)
        monkeypatch.setattr(registry, "_entries", {**registry._entries, plugin.name: plugin})
    monkeypatch.setattr(Counted, "limits", [])

    def make(overwrite: Overwrite = "failed", **options: Any) -> Runner:
        small = plan("counted", 1, tasks=["tiny"], randomised_graphs=0, **options)
        return Runner(small, CellStore(tmp_path / "r"), ModelCache(tmp_path / "c"), overwrite)

    return make


def pieces_of(runner: Runner) -> list[Piece]:
    return [*runner.plan.problems(), *runner.plan.cells()]


def test_a_piece_is_done_once_and_read_back(tiny: Callable[..., Runner]) -> None:
    runner = tiny()
    spec, cell = pieces_of(runner)
    assert not any(map(runner.finished, pieces_of(runner)))
    for _ in range(2):
        assert all(map(runner.perform, pieces_of(runner)))
    assert len(Counted.limits) == 1
    other = tiny()
    assert all(map(other.finished, pieces_of(other)))
    loaded = other.load(cast(Cell, cell))
    assert (loaded.record.status, len(loaded.rows)) == ("ok", 2)
    stored = other.load_problem(cast(ProblemSpec, spec))
    assert stored is not None
    assert [row.method for row in stored.rows] == ["keep-all", "drop-all"]


def test_a_piece_that_another_process_does_is_left_to_it(tiny: Callable[..., Runner]) -> None:
    runner = tiny()
    for item in pieces_of(runner):
        with tiny().store.lock(runner.keys[item]):
            assert not runner.perform(item, wait=False)
    assert Counted.limits == []


@pytest.mark.parametrize("overwrite", ["failed", "never", "always"])
@pytest.mark.parametrize("status", ["ok", "skipped", "infeasible", "failed", "timeout", "out-of-memory"])
def test_which_records_are_kept(tiny: Callable[..., Runner], overwrite: Overwrite, status: str) -> None:
    runner = tiny(overwrite)
    cell = cast(Cell, pieces_of(runner)[1])
    if status == "ok":
        runner.perform(cell)
    else:
        runner.end(cell, status, "a reason", "a log")
        assert (runner.load(cell).record.status, runner.load(cell).record.reason) == (status, "a reason")
        assert (runner.store.cells / runner.keys[cell] / "log.txt").read_text() == "a log"
    Counted.limits.clear()
    kept = overwrite == "never" or (overwrite == "failed" and status in ("ok", "skipped", "infeasible"))
    assert runner.finished(cell) == kept
    runner.perform(cell)
    assert len(Counted.limits) == (0 if kept else 1)
    assert runner.load(cell).record.status == (status if kept else "ok")


def test_fewer_edges_after_a_kill_are_not_part_of_the_key_and_are_said(tiny: Callable[..., Runner]) -> None:
    runner = tiny(max_edges=400)
    cell = cast(Cell, pieces_of(runner)[1])
    runner.perform(cell, 25)
    assert Counted.limits == [25]
    assert runner.load(cell).record.costs["max_edges"] == 25
    assert runner.finished(cell)


@pytest.mark.parametrize("number", [0, 1])
def test_scoring_that_runs_out_of_memory_is_tried_again_in_smaller_passes(
    tiny: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    limits: list[int] = []

    enter = Judge.__enter__

    def starved(judge: Judge) -> Judge:
        limits.append(judge.max_edges)
        if judge.max_edges > 60:
            raise torch.OutOfMemoryError("out of memory")
        return enter(judge)

    monkeypatch.setattr(Judge, "__enter__", starved)
    runner = tiny(max_edges=400)
    item = pieces_of(runner)[number]
    runner.perform(item)
    assert limits == [400, 100, 25]
    assert runner.finished(item)


@pytest.mark.parametrize("error", [RuntimeError("no data"), SystemExit(3), MemoryError("no room")])
def test_a_problem_that_cannot_be_built_is_stored_with_its_reason(
    tiny: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Tiny, "build", fail)
    runner = tiny()
    spec, cell = pieces_of(runner)
    runner.perform(spec)
    stored = runner.load_problem(cast(ProblemSpec, spec))
    assert stored is not None
    assert (stored.status, stored.reason) == (status_of(error), first_line(error))
    assert "in fail" in stored.log
    runner.perform(cell)
    assert runner.load(cast(Cell, cell)).record.reason == first_line(error)


def test_a_folder_that_cannot_be_written_ends_the_run(tiny: Callable[..., Runner], tmp_path: Path) -> None:
    runner = tiny()
    (tmp_path / "r").write_text("not a folder")
    for item in pieces_of(runner):
        with pytest.raises(StorageError, match="expected a writable folder"):
            runner.perform(item)


def test_a_process_that_was_killed_is_tried_again_with_fewer_edges(tiny: Callable[..., Runner]) -> None:
    runner = tiny(max_edges=400)
    crew = workers(runner)
    execution = Execution(runner, crew, Expected(None, {}, {}))
    cell = pieces_of(runner)[1]
    expired = ProcessExpired("gone", code=-signal.SIGKILL)
    limits = []
    for again in (True, True, True, False):
        limits.append(execution.limit(cell))
        future: Future[tuple[float, bool] | None] = Future()
        future.set_exception(expired)
        assert execution.settled(crew.ended(cell, future)) != again
    assert limits == [400, 100, 25, 6]
    record = runner.load(cast(Cell, cell)).record
    assert (record.status, record.reason) == (
        "out-of-memory",
        "its process was killed 4 times, most likely for memory; the last time with at most 6 edges a pass",
    )


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TimeoutError(), "timeout", "took more than 2.5 s (--cell-timeout)"),
        (ProcessExpired("gone", code=-11), "failed", "its process ended with signal 11 (SIGSEGV)"),
        (ProcessExpired("gone", code=3), "failed", "its process ended with exit code 3"),
        (TypeError("cannot be sent"), "failed", "TypeError: cannot be sent"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_what_a_worker_could_not_record_is_recorded_with_what_it_printed(
    tiny: Callable[..., Runner], error: BaseException, status: str, reason: str
) -> None:
    runner = tiny()
    cell = cast(Cell, pieces_of(runner)[1])
    path = printed.output(runner, cell, os.getpid())
    path.write_text("x" * printed.MAX_OUTPUT + "the end")
    future: Future[tuple[float, bool] | None] = Future()
    future.set_exception(error)
    crew = workers(runner, timeout=2.5)
    assert Execution(runner, crew, Expected(None, {}, {})).settled(crew.ended(cell, future))
    record = runner.load(cell).record
    assert (record.status, record.reason) == (status, reason)
    log = (runner.store.cells / runner.keys[cell] / "log.txt").read_text()
    assert log.endswith("xthe end")
    assert len(log) == printed.MAX_OUTPUT
    assert not path.exists()


def test_a_full_folder_in_a_worker_ends_the_run(tiny: Callable[..., Runner]) -> None:
    runner = tiny()
    future: Future[tuple[float, bool] | None] = Future()
    future.set_exception(StorageError("no room"))
    with pytest.raises(StorageError, match="no room"):
        workers(runner).ended(pieces_of(runner)[1], future)
    assert not (runner.store.cells / runner.keys[pieces_of(runner)[1]]).exists()


def test_drafts_may_vanish_while_old_ones_are_removed(tmp_path: Path) -> None:
    """As when another process writes to the folder."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_json(tmp_path / "cells" / "x" / "record.json", {})

    old = tmp_path / "cells" / ".draft-old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            remove_old_drafts(tmp_path)
    finally:
        stop.set()
        writer.join()
    assert not old.exists()
    assert json.loads((tmp_path / "cells" / "x" / "record.json").read_text()) == {}


def test_what_workers_of_a_killed_run_printed_is_removed(tiny: Callable[..., Runner], tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    runner = tiny()
    folder = runner.store.root / ".output"
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"a-{int(gone.stdout)}": True, f"b-{os.getpid()}": False, f"new-{int(gone.stdout)}": False, "c-d": False}
    for name in names:
        (folder / name).write_text("printed")
        if not name.startswith("new"):
            os.utime(folder / name, (0, 0))
    printed.clear_output(runner)
    assert {path.name for path in folder.iterdir()} == {name for name, removed in names.items() if not removed}


def test_an_interrupt_that_a_method_raises_is_not_the_users(
    tiny: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tiny()

    def interrupt(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "perform", interrupt)
    monkeypatch.setattr(worker, "_state", worker._State(runner, Tracker(lambda *_: None), None, os.getpid()))
    output = [os.dup(1), os.dup(2)]
    try:
        with pytest.raises(RuntimeError, match="it raised KeyboardInterrupt"):
            worker.perform(pieces_of(runner)[1], 100)
    finally:
        for number, kept in enumerate(output, start=1):
            os.dup2(kept, number)
            os.close(kept)


def test_what_a_piece_prints_is_bounded_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(printed, "MAX_OUTPUT", 1000)
    path, largest = tmp_path / "printed", 0
    with printed.new_output(path) as file, printed.Bounded(path):
        for number in range(300):
            file.write(f"{number:099}\n")
            largest = max(largest, path.stat().st_size)
            time.sleep(0.002)
        file.write("the end")
    assert largest < 15_000 < 300 * 100
    assert path.read_text().endswith(f"{299:099}\nthe end")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_do_not_run_the_users_script_again(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this platform")
    script = tmp_path / "script.py"
    script.write_text(
        f"import multiprocessing\nmultiprocessing.get_all_start_methods = lambda: [{method!r}]\n"
        "from attribench.running import processes\nprocesses.PRELOADED[:] = []\n"
        "print('script', flush=True)\n"
        "started = processes.context().Process(target=print, args=('process', ))\n"
        "assert processes.context().get_start_method() == started._start_method == " + repr(method) + "\n"
        "started.start()\nstarted.join()\nassert started.exitcode == 0\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=HANG, check=True)
    assert ran.stdout.split() == ["script", "process"]
