"""Carrying out a plan: which piece comes next, and what becomes of one that was not performed."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import pytest
import torch
from rich.console import Console

from attribench.base.pieces import Cell, Piece, ProblemSpec
from attribench.base.progress import Progress
from attribench.running import execution
from attribench.running.execution import Execution
from attribench.running.expected import Expected
from attribench.running.performer import Ended, How, Performer
from attribench.running.plan import Plan
from attribench.running.runner import Runner
from attribench.running.schedule import Schedule
from attribench.storing.cells import CellStore
from attribench.storing.records import StoredScores


def plan(methods: str = "integrated-gradients,gnnexplainer", seeds: int = 2, **options: Any) -> Plan:
    return Plan(
        **{"tasks": ["toy"], "methods": methods.split(","), "overrides": {}, "device": "cpu", **options},
        seeds=list(range(seeds)),
    )


@dataclass
class Told:
    """A runner that knows what is finished and how problems ended, and remembers what it was told."""

    plan: Plan
    done: set[Piece] = field(default_factory=set)
    problems: dict[ProblemSpec, StoredScores | None] = field(default_factory=dict)
    ended: list[tuple[Piece, str, str, str]] = field(default_factory=list)
    store: CellStore = field(default_factory=lambda: CellStore(Path("r")))

    def finished(self, item: Piece) -> bool:
        return item in self.done

    def load_problem(self, spec: ProblemSpec) -> StoredScores | None:
        return self.problems.get(spec, StoredScores())

    def end(self, item: Piece, status: str, reason: str, log: str = "") -> None:
        self.ended.append((item, status, reason, log))

    def status(self, cell: Cell) -> str:
        return "ok"


def schedule(told: Told, expected: Expected | None = None) -> Schedule:
    return Schedule(cast(Runner, told), expected)


def take_all(pieces: Schedule) -> list[Piece]:
    return list(iter(pieces.next, None))


def test_a_problems_cells_come_after_it_in_the_order_of_the_plan() -> None:
    told = Told(plan())
    pieces = schedule(told)
    first, second = told.plan.problems()
    cells = told.plan.cells()
    assert take_all(pieces) == [first, second]
    assert bool(pieces)
    assert pieces.done(second) == []
    assert take_all(pieces) == cells[2:]
    assert pieces.done(first) == []
    assert take_all(pieces) == cells[:2]
    assert not pieces
    assert [pieces.done(cell) for cell in cells] == [[cell] for cell in cells]
    assert told.ended == []


def test_what_is_finished_is_not_done_again() -> None:
    told = Told(plan())
    first, second = told.plan.problems()
    cells = told.plan.cells()
    told.done = {first, cells[0], cells[2], cells[3]}
    pieces = schedule(told)
    assert pieces.finished == [cells[0], cells[2], cells[3]]
    assert take_all(pieces) == [cells[1], second]  # whose own figures are not there
    assert not schedule(Told(told.plan, {first, second, *cells}))


@pytest.mark.parametrize(
    ("stored", "ending"),
    [
        (StoredScores(status="failed", reason="no data", log="a traceback"), ("failed", "no data", "a traceback")),
        (StoredScores(status="out-of-memory", reason="killed"), ("out-of-memory", "killed", "")),
        (None, ("failed", "what is stored for its problem is not there, in r/cells: run it again", "")),
        (StoredScores(status="refused", reason="graph 7 ..."), ("skipped", "graph 7 ...", "")),
    ],
)
def test_a_problem_that_fails_ends_its_cells_and_no_others(
    stored: StoredScores | None, ending: tuple[str, str, str]
) -> None:
    told = Told(plan())
    first, second = told.plan.problems()
    cells = told.plan.cells()
    told.done, told.problems = {cells[0]}, {first: stored}
    pieces = schedule(told)
    assert take_all(pieces) == [first, second]
    assert pieces.done(first) == [cells[1]]
    assert told.ended == [(cells[1], *ending)]
    assert pieces.done(second) == []
    assert take_all(pieces) == cells[2:]


def test_a_piece_that_is_taken_back_comes_after_the_others() -> None:
    told = Told(plan())
    told.done = set(told.plan.problems())
    pieces, cells = schedule(told), told.plan.cells()
    assert pieces.next() == cells[0]
    pieces.later(cells[0])  # another process is doing it: do something else
    assert take_all(pieces) == [*cells[1:], cells[0]]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_cell_ends_once_and_after_its_problem(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def chance() -> bool:
        return bool(torch.rand((), generator=draw) < 0.3)

    told = Told(plan("integrated-gradients,gnnexplainer,graphmask", seeds=4))
    everything: list[Piece] = [*told.plan.cells(), *told.plan.problems()]
    told.done = {item for item in everything if chance()}
    told.problems = {item: StoredScores(status="failed") for item in told.plan.problems() if chance()}
    pieces = schedule(told)
    ended, running, known = list(pieces.finished), list[Piece](), set(told.done)
    while pieces or running:
        if (item := pieces.next()) is not None:
            assert isinstance(item, ProblemSpec) or item.problem in known
            running.append(item)
        elif chance():
            pieces.later(running.pop(0))
        else:
            item = running.pop()
            known |= {item} if isinstance(item, ProblemSpec) and item not in told.problems else set()
            ended += pieces.done(item)
    assert sorted(map(str, ended)) == sorted(map(str, told.plan.cells()))


def remembering(path: Path, plan: Plan, **seconds: float) -> Expected:
    path.write_text(json.dumps({name.replace("__", " · ").replace("_", "-"): x for name, x in seconds.items()}))
    return Expected(path, plan.configs(), plan.overrides)


def test_the_longest_cells_of_a_problem_come_first_and_unknown_ones_before_them(tmp_path: Path) -> None:
    names = "erasure,integrated-gradients,graphmask,gnnexplainer,information-bottleneck,graphmask-nonamortized"
    told = Told(plan(names, seeds=1))
    expected = remembering(tmp_path / "s", told.plan, toy__erasure=3.0, toy__integrated_gradients=5.0, toy=9.0)
    told.done = set(told.plan.problems())
    order = [cast(Cell, piece).method for piece in take_all(schedule(told, expected))]
    assert order[4:] == ["integrated-gradients", "erasure"]
    configs = told.plan.configs()
    steps = [configs[name].steps for name in order[:2]]
    assert order[:2] == ["graphmask", "information-bottleneck"]  # which fit, the latter several times
    assert steps[0] > steps[1]
    assert set(order[2:4]) == {"gnnexplainer", "graphmask-nonamortized"}


def test_the_problem_with_the_longest_cell_comes_first(tmp_path: Path) -> None:
    told = Told(Plan(tasks=["toy", "relay"], methods=["erasure"], overrides={}, seeds=[0, 1], device="cpu"))
    expected = remembering(tmp_path / "s", told.plan, toy__erasure=3.0, relay__erasure=5.0, toy=90.0)
    order = take_all(schedule(told, expected))
    assert [(piece.task, piece.seed) for piece in order] == [("relay", "0"), ("relay", "1"), ("toy", "0"), ("toy", "1")]


def test_what_pieces_took_is_kept_by_task_and_method(tmp_path: Path) -> None:
    cells, path = plan(seeds=2).cells(), tmp_path / "cache" / "s"
    expected = Expected(path, {}, {})
    for seconds, cell in enumerate(cells, start=1):
        expected.took(cell, seconds)
    expected.took(cells[0], 0.123)
    assert not path.exists()
    expected.save()
    kept = json.loads(path.read_text())
    assert list(kept.items()) == [("toy · gnnexplainer", 4), ("toy · integrated-gradients", 0.12)]
    other = Expected(path, {}, {})
    other.took(Cell("relay", "erasure", 0, 0, 0), 7)
    other.save()
    assert list(json.loads(path.read_text()).items()) == [*kept.items(), ("relay · erasure", 7)]
    assert max(cells, key=Expected(path, {}, {}).rank) == cells[1]


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"toy": "x"}', '{"toy": null}', "[" * 10**5, '{"toy": 1' + "0" * 400 + "}"]
)
def test_a_damaged_memory_of_what_pieces_took_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "s"
    path.write_text(content)
    cells = plan().cells()
    assert {Expected(path, {}, {}).rank(cell) for cell in cells} == {(True, False, 0.0)}


def test_a_memory_that_cannot_be_kept_is_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "cache").write_text("a file")
    expected = Expected(tmp_path / "cache" / "s", {}, {})
    expected.took(plan().cells()[0], 1.0)
    expected.save()
    assert "is not kept" in caplog.text


def test_what_a_cell_takes_at_other_sizes_says_nothing(tmp_path: Path) -> None:
    (cell,) = plan("erasure", seeds=1).cells()
    quick = Expected(tmp_path / "s", {}, {"toy": {"train": 10}, "relay": {"test": 1}})
    quick.took(cell, 0.1)
    quick.save()
    assert Expected(tmp_path / "s", {}, {}).rank(cell) == (True, False, 0.0)
    assert Expected(tmp_path / "s", {}, {"toy": {"train": 10}}).rank(cell) == (False, False, 0.1)


def test_the_memory_is_bounded_and_forgets_what_was_seen_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attribench.running.expected.MOST_KEPT", 2)
    for name in ("a", "b", "a", "c"):
        expected = Expected(tmp_path / "s", {}, {})
        expected.took(Cell(name, "erasure", 0, 0, 0), 1.0)
        expected.save()
    assert list(json.loads((tmp_path / "s").read_text())) == ["a · erasure", "c · erasure"]


class Scripted(Performer):
    """Ends pieces as it is told, the first of ``slots`` first."""

    slots = 2

    def __init__(self, *endings: tuple[How, str]) -> None:
        self.endings = list(endings)
        self.at_work: list[Piece] = []
        self.begun: list[tuple[Piece, int]] = []
        self.entered = 0
        self.running: set[Piece] = set()

    def __enter__(self) -> Self:
        self.entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.entered -= 1

    def start(self, piece: Piece, max_edges: int) -> None:
        assert self.entered == 1
        assert len(self.at_work) < self.slots
        self.at_work.append(piece)
        self.begun.append((piece, max_edges))

    def wait(self) -> Iterator[Ended]:
        how, reason = self.endings.pop(0) if self.endings else ("performed", "")
        piece = self.at_work.pop(0)
        yield Ended(piece, how, reason, "printed", worked=1.0, ran=piece in self.running)


def carried_out(told: Told, performer: Performer, expected: Expected | None = None) -> list[Cell]:
    quiet = Progress(Console(file=io.StringIO()))
    return list(Execution(cast(Runner, told), performer, expected or Expected(None, {}, {})).cells(quiet))


def test_whoever_performs_the_pieces_each_cell_ends_once() -> None:
    told, performer = Told(plan()), Scripted()
    first, second = told.plan.problems()
    cells = told.plan.cells()
    assert sorted(map(str, carried_out(told, performer))) == sorted(map(str, cells))
    assert [piece for piece, _ in performer.begun] == [first, second, *cells]
    assert performer.entered == 0
    assert told.ended == []


def test_nobody_is_asked_where_nothing_is_left() -> None:
    told = Told(plan())
    told.done = {*told.plan.problems(), *told.plan.cells()}
    assert carried_out(told, cast(Performer, None)) == told.plan.cells()


@pytest.mark.parametrize("how", ["busy", "lost"])
def test_a_piece_that_nobody_began_is_done_after_the_others(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BUSY_SECONDS", 0.0)
    told, performer = Told(plan(seeds=1)), Scripted(("performed", ""), (how, ""))
    (spec,), (one, other) = told.plan.problems(), told.plan.cells()
    assert carried_out(told, performer) == [other, one]
    assert [piece for piece, _ in performer.begun] == [spec, one, other, one]
    assert told.ended == []


def test_a_piece_whose_process_is_killed_is_tried_with_ever_smaller_passes_and_the_others_go_on() -> None:
    told = Told(plan(seeds=1, max_edges=1000))
    one, other = told.plan.cells()
    killed: tuple[How, str] = ("killed", "its process ended with signal 9 (SIGKILL)")
    performer = Scripted(("performed", ""), killed, ("performed", ""), killed, killed, killed)
    assert carried_out(told, performer) == [other, one]
    assert [limit for piece, limit in performer.begun if piece == one] == [1000, 250, 62, 15]
    ((piece, status, reason, log),) = told.ended
    assert (piece, status, log) == (one, "out-of-memory", "printed")
    assert reason.endswith("the last time with at most 15 edges a pass")


@pytest.mark.parametrize("how", ["failed", "timeout"])
def test_a_piece_that_ends_for_good_is_recorded_with_what_it_printed(how: How) -> None:
    told = Told(plan(seeds=1))
    one, other = told.plan.cells()
    assert carried_out(told, Scripted(("performed", ""), (how, "why"))) == [one, other]
    assert told.ended == [(one, how, "why", "printed")]


def test_what_was_only_scored_says_nothing_of_what_it_takes(tmp_path: Path) -> None:
    told, performer, expected = Told(plan(seeds=1)), Scripted(), Expected(tmp_path / "s", {}, {})
    one, _ = told.plan.cells()
    performer.running = {one}
    carried_out(told, performer, expected)
    expected.save()
    assert set(json.loads((tmp_path / "s").read_text())) == {"toy · integrated-gradients"}
