"""``bench`` runs, and writes a row for every figure that it promises."""

from pathlib import Path

import pandas as pd
import pytest
from command_helpers import exit_code

from attribench.running.bench import Bench


def test_bench_prints_and_writes_every_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds", _once)
    arguments = ["bench", "--methods", "integrated-gradients,graphmask,gate-values", "--graphs", "10", "--out"]
    assert exit_code(*arguments, str(tmp_path)) == 0
    rows = pd.read_csv(tmp_path / "bench.csv")
    assert list(rows) == ["method", "what", "ours", "other", "ratio", "peak_mib", "task", "device", "threads"]
    assert rows.groupby("method").size().to_dict() == {"graphmask": 2, "integrated-gradients": 3}
    assert rows["what"].str.contains("PyG CaptumExplainer").sum() == 1
    growth = rows["what"].str.endswith("1 is linear")
    assert (rows["peak_mib"].notna() == growth).all()
    step = rows["what"].str.startswith("step")
    assert list(rows["ratio"][step]) == pytest.approx(list(rows["ours"][step] / rows["other"][step]), rel=1e-2)


def _once(self: Bench, *actions: object, repeats: int = 3) -> list[float]:
    """Run every action once, and say that each took one second longer than the one before."""
    for action in actions:
        assert callable(action)
        action()
    return [float(i + 1) for i, _ in enumerate(actions)]
