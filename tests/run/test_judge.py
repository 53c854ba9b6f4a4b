"""Whose images are judged: a rule that always answers the same, and a run whose images an engine makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_runs import Bench

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.report.tables.results import results_table
from pqbench.run.outcome import parity_failures
from pqbench.run.planning.judge import AUTO_IMAGES, choose_judge
from pqbench.run.stages import measure as measure_stages
from pqbench.run.stages.images import load_images
from pqbench.scoring.resolver import ScoringRequest
from pqbench.timing import measure as timing


@pytest.mark.parametrize(
    ("judge", "engines", "images", "chosen"),
    [
        ("simulation", ("torch", "openvino"), 50_000, None),
        ("auto", ("torch", "openvino"), AUTO_IMAGES - 1, None),
        ("auto", ("torch", "openvino"), AUTO_IMAGES, "openvino"),
        ("auto", ("torch",), AUTO_IMAGES, None),
        ("auto", (), AUTO_IMAGES, None),
        ("engine", ("torch", "openvino"), 16, "openvino"),
    ],
)
def test_the_rule(judge: str, engines: tuple[str, ...], images: int, chosen: str | None) -> None:
    found = choose_judge(judge, engines, "cpu", images, Registry.discover(blocked=()))
    assert (found.name if found else None) == chosen


def test_a_judge_on_a_card_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, words = Registry.discover(blocked=()), {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for card in ("H100", "H200"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=card: name)
        for device, engine in (("cuda", "torch-int8"), ("cpu", "openvino")):
            judge = choose_judge("engine", (engine,), device, 16, registry)
            assert judge is not None
            words[device, card] = judge.words
            assert judge.facts.get("card") == (card if device == "cuda" else None)
    assert words["cuda", "H100"] == words["cuda", "H200"].replace("H200", "H100") != words["cuda", "H200"]
    assert words["cpu", "H100"] == words["cpu", "H200"]


@pytest.mark.parametrize(
    ("judge", "engines", "sentence"),
    [("jury", ("openvino",), "simulation, engine, auto"), ("engine", ("torch",), "needs an engine that executes")],
)
def test_what_cannot_be_judged_is_refused(judge: str, engines: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        choose_judge(judge, engines, "cpu", 16, Registry.discover(blocked=()))


def test_the_engines_own_images_are_judged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure", lambda spec: {})  # latency is another test's
    simulated = bench.plan("cheap[w=8,a=8]")
    executed = bench.plan("cheap[w=8,a=8]", engines=("openvino",), judge="engine")
    assert simulated.protocol.id != executed.protocol.id
    assert executed.protocol.judge.startswith("engine openvino 20")
    ours, theirs = executed.cells[1], simulated.cells[1]
    assert ours.model.key == theirs.model.key
    assert ours.images.key != theirs.images.key
    records = bench.run("cheap[w=8,a=8]", engines=("openvino",), judge="engine")
    record = records["cheap[w=8,a=8]/0"]
    assert record.status == "ok"
    parity = record.metrics["parity_fd@openvino"]
    assert parity.n == 16
    assert parity.detail["simulation_to_reference"] > 0
    assert list(parity_failures(record.metrics)) == []
    assert record.metrics["fd"].detail["judge"] == executed.protocol.judge
    plain = bench.run("cheap[w=8,a=8]")["cheap[w=8,a=8]/0"]
    assert plain.metrics["fd"].detail["judge"] == "simulation"
    images = [load_images(bench.cache.folder(cell.images.key)) for cell in (ours, theirs)]
    assert images[0].shape == images[1].shape
    # The same noise: pictures differ by rounding, not in what they show.
    difference = (images[0].int() - images[1].int()).abs().float().mean()
    assert 0 <= float(difference) < 8
    assert not torch.equal(images[0][0], images[0][1])


def test_an_engine_whose_images_are_another_models_is_a_footnote_of_its_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of statistics that the user gave, as of the workload's own."""
    monkeypatch.setattr(timing, "measure", lambda spec: {})
    simulated = measure_stages.make_images
    monkeypatch.setattr(measure_stages, "make_images", lambda *given: simulated(*given) // 4)
    statistics = tmp_path / "stats.npz"
    np.savez(statistics, mu=np.zeros(8), sigma=np.eye(8))
    for given in (None, statistics):
        scoring = ScoringRequest(metrics="fd", reference=given)
        record = bench.run("cheap[w=8,a=8]", engines=("openvino",), judge="engine", scoring=scoring)["cheap[w=8,a=8]/0"]
        (note,) = parity_failures(record.metrics)
        assert record.notes == (note,)
        (section,) = results_table([record], bench.folder.manifest()).sections
        assert note in section.footnotes
        assert note.startswith("Judged are images of openvino, which does not agree with the simulation")
