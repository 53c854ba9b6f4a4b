"""A killed distillation goes on and ends bit for bit as one that was never interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pqbench_pd import ProgressiveDistillation
from pqbench_qkd import QuantizedKnowledgeDistillation
from torch import nn
from trained_student import Scene, same

from pqbench.contracts import Context, Distiller
from pqbench.contracts.context import ProgressCallback
from pqbench.training import resume
from pqbench.training.resume import ResumeFile, digest_of

ITERATIONS = 12
TWICE = ProgressiveDistillation(iterations=ITERATIONS, batch=4, halvings=2)


class Killed(BaseException):
    """Passes every handler of errors, as a kill would."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def whole(scene: Scene) -> tuple[nn.Module, Context]:
    context = scene.context()
    return scene.distill(TWICE, context), context


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state after every iteration."""
    monkeypatch.setattr(resume, "SECONDS_APART", 0.0)
    monkeypatch.setattr(resume, "COST_APART", 0.0)


def killing_at(call: int) -> ProgressCallback:
    """Counts iterations over all halvings, and kills when it is told of the given one."""
    left = iter(range(call - 1, -1, -1))

    def progress(done: int, total: int, message: str) -> None:
        if message.startswith("distillation") and next(left) == 0:
            raise Killed

    return progress


def kill(scene: Scene, distiller: Distiller, scratch: Path, at: int) -> None:
    with pytest.raises(Killed):
        scene.distill(distiller, scene.context(scratch, progress=killing_at(at)))


def counting(seen: list[str]) -> ProgressCallback:
    return lambda done, total, message: seen.append(message)


@pytest.mark.usefixtures("eager")
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kills=st.lists(st.integers(1, 2 * ITERATIONS), min_size=1, max_size=3))
def test_killed_at_any_iteration_it_ends_bit_for_bit_the_same(
    scene: Scene, whole: tuple[nn.Module, Context], tmp_path_factory: pytest.TempPathFactory, kills: list[int]
) -> None:
    scratch, behind = tmp_path_factory.mktemp("scratch"), 0
    for at in sorted(kills):
        # Each attempt begins where the last state was: that before the iteration at which it was killed.
        if at > behind:
            kill(scene, TWICE, scratch, at - behind)
            behind = at - 1
    seen: list[str] = []
    context = scene.context(scratch, progress=counting(seen))
    student = scene.distill(TWICE, context)
    assert same(student, whole[0])
    assert context.trace == whole[1].trace
    assert sum(message.startswith("distillation") for message in seen) == 2 * ITERATIONS - behind


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("at", [1, 2, 7, ITERATIONS])
def test_full_precision_and_matching_students_go_on_too(tmp_path: Path, at: int) -> None:
    for bits, distiller in (
        (32, ProgressiveDistillation(iterations=ITERATIONS, batch=4)),
        (4, QuantizedKnowledgeDistillation(iterations=ITERATIONS, batch=4)),
    ):
        scene, scratch = Scene(bits=bits, runs=4), tmp_path / str(bits)
        kill(scene, distiller, scratch, at)
        assert same(scene.distill(distiller, scene.context(scratch)), scene.distill(distiller))


@pytest.mark.usefixtures("eager")
def test_targets_are_not_made_again(scene: Scene, tmp_path: Path) -> None:
    kill(scene, TWICE, tmp_path, 3)
    seen: list[str] = []
    kill_later = killing_at(2)

    def progress(done: int, total: int, message: str) -> None:
        seen.append(message)
        kill_later(done, total, message)

    with pytest.raises(Killed):
        scene.distill(TWICE, scene.context(tmp_path, progress=progress))
    assert not any(message.startswith("targets") for message in seen)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def of_nobody(content: bytes) -> bytes:
    from safetensors.torch import save

    return save({"a": torch.zeros(3)})


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", [truncated, flipped, of_nobody, lambda content: b"", lambda content: b"{}"])
@pytest.mark.parametrize("name", ["training-1", "targets-1"])
def test_a_damaged_state_is_ignored_with_one_line(
    scene: Scene,
    whole: tuple[nn.Module, Context],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
    name: str,
) -> None:
    kill(scene, TWICE, tmp_path, 6)
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    context = scene.context(tmp_path)
    assert same(scene.distill(TWICE, context), whole[0])
    assert context.trace == whole[1].trace
    (said,) = caplog.messages
    assert said == f"{path} is truncated or damaged: it is ignored, and this part of the work starts again."


@pytest.mark.usefixtures("eager")
def test_the_state_of_other_work_is_ignored_with_one_line(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill(scene, ProgressiveDistillation(iterations=ITERATIONS, batch=3), tmp_path, 6)
    other = ProgressiveDistillation(iterations=ITERATIONS, batch=4)
    assert same(scene.distill(other, scene.context(tmp_path)), scene.distill(other))
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'training.safetensors'} belongs to other work: it is ignored")


def test_states_cost_a_fiftieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    writes: list[float] = []

    def write(path: Path, content: bytes) -> None:
        clock[0] += 3.0
        writes.append(clock[0])

    monkeypatch.setattr(resume, "write_atomically", write)
    file = ResumeFile(tmp_path / "state", "work")
    while clock[0] < 3600:
        clock[0] += 0.5
        if file.due():
            file.save({}, {})
    assert writes[0] == resume.SECONDS_APART + 3
    assert len(writes) > 20
    assert 3.0 * len(writes) / clock[0] <= 0.021


@pytest.mark.usefixtures("eager")
def test_the_time_of_killed_attempts_is_counted(scene: Scene, tmp_path: Path) -> None:
    def slow(at: int) -> ProgressCallback:
        kill_later = killing_at(at)

        def progress(done: int, total: int, message: str) -> None:
            time.sleep(0.02 if message.startswith("distillation") else 0.0)
            kill_later(done, total, message)

        return progress

    distiller = ProgressiveDistillation(iterations=ITERATIONS, batch=4)
    for at in (5, 4):  # behind are 4 iterations, then 3 more
        with pytest.raises(Killed):
            scene.distill(distiller, scene.context(tmp_path, progress=slow(at)))
    context = scene.context(tmp_path)
    assert not context.earlier
    scene.distill(distiller, context)
    assert 7 * 0.02 < sum(context.earlier) < 7 * 0.02 + 5


def test_without_a_path_nothing_is_kept() -> None:
    file = ResumeFile(None, "work")
    file.save({"a": torch.zeros(1)}, {})
    assert file.load() is None
    assert not file.due()


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, dtype=torch.long),
        "view": torch.arange(6.0).view(2, 3).T,
        "bytes": torch.Generator().manual_seed(3).get_state(),
    }
    facts = {"iteration": 7, "loss": 0.1 + 0.2, "rows": [{"event": "ö | \n"}]}
    ResumeFile(tmp_path / "deep" / "state", "work").save(tensors, facts)
    found = ResumeFile(tmp_path / "deep" / "state", "work").load()
    assert found is not None
    assert found.facts == facts
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_a_digest_depends_on_values_types_shapes_and_names() -> None:
    a = torch.arange(4, dtype=torch.int32)
    digests = [
        digest_of("x", {"a": a}),
        digest_of("y", {"a": a}),
        digest_of("x", {"b": a}),
        digest_of("x", {"a": a.float()}),
        digest_of("x", {"a": a.view(2, 2)}),
        digest_of("x", {"a": a + 1}),
        digest_of("x", [a]),
    ]
    assert len(set(digests)) == len(digests)
    assert digest_of("x", {"a": a, "b": a + 1}) == digest_of("x", {"b": a + 1, "a": a.clone()})
