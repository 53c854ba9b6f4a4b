"""Thinned traces: short, in order, with every event."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pqbench.run.execution.trace import thinned

EVENTS = st.lists(st.sampled_from(["", "", "", "transition"]), max_size=300)


@given(EVENTS, st.integers(4, 100))
def test_every_event_and_an_even_choice_of_the_others(events: list[str], most: int) -> None:
    rows = [{"iteration": i, "event": event} for i, event in enumerate(events)]
    kept = thinned(rows, most)
    assert [row for row in kept if row["event"]] == [row for row in rows if row["event"]]
    assert [row["iteration"] for row in kept] == sorted({row["iteration"] for row in kept})
    others, all_others = ([row for row in some if not row["event"]] for some in (kept, rows))
    happened = len(rows) - len(all_others)
    assert len(others) == min(len(all_others), max(most - happened, most // 4))
    if len(rows) <= most:
        assert kept == rows
    if len(others) > 1:
        assert (others[0], others[-1]) == (all_others[0], all_others[-1])
        places = [all_others.index(row) for row in others]
        gaps = [b - a for a, b in pairwise(places)]
        assert max(gaps) - min(gaps) <= 1


def test_rows_without_events_are_thinned_too() -> None:
    assert thinned([{"loss": i} for i in range(10)], most=4) == [{"loss": i} for i in (0, 3, 6, 9)]
