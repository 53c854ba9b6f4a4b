"""Progress: one line a stage without a terminal, live bars in one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pqbench.run.execution.progress import RunProgress


def test_without_a_terminal_there_is_a_line_for_each_stage_and_nothing_else() -> None:
    text = io.StringIO()
    with RunProgress(Console(file=text, width=40), ["a", "b", "c"]) as progress:
        with progress.stage("rtn w4a4: quantize") as report:
            report(1, 2, "layers")
        progress.finish(["a"], "rtn w4a4: quantize  0.1 s and [brackets] in a line wider than the console")
        progress.finish(["a"], "shared by the next cell, so already counted")
        progress.finish(["a", "b", "c"], "skipped")
    assert text.getvalue().splitlines() == [
        "[1/3] rtn w4a4: quantize  0.1 s and [brackets] in a line wider than the console",
        "[3/3] skipped",
    ]


@pytest.mark.parametrize("width", [40, 100])
def test_bars_show_stage_count_and_time_left_on_one_line_each(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    with RunProgress(console, ["a", "b"]) as progress, progress.stage("a method with a long name: sample") as report:
        for done in (16, 32):
            report(done, 64, "images")
            assert progress._bars is not None
            progress._bars.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", text.getvalue())
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    assert all(len(line) <= width for line in lines)
    assert any(re.search(r"^a method .*32/64 .*left", line) for line in lines)
    assert any(re.search(r"^all stages .*0/2 ", line) for line in lines)


def test_the_bar_of_a_stage_goes_away_even_when_it_fails() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with RunProgress(console, ["a"]) as progress:
        with pytest.raises(ZeroDivisionError), progress.stage("doomed"):
            raise ZeroDivisionError
        assert progress._bars is not None
        assert [task.description for task in progress._bars.tasks] == ["all stages"]


def test_bars_rest_while_something_is_timed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with RunProgress(console, ["a"]) as progress:
        assert progress._bars is not None
        with progress.stage("rtn w4a4: time", still=True) as report:
            report(1, 2, "openvino")
            assert not progress._bars.live.is_started
        assert progress._bars.live.is_started
