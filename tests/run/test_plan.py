"""Plans: which cells and keys a request gives, and which requests are refused before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import PLUGINS, Bench

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.contracts import CalibrationSet
from pqbench.engines.choice import AUTO, choose_engines
from pqbench.engines.openvino.engine import OpenVinoBf16
from pqbench.run import graph
from pqbench.run.plan import Plan, parse_seeds
from pqbench.run.planning.budgets import PRESETS
from pqbench.run.runner import default_folder
from pqbench.testing.tiny import TinyWorkload


def cells(plan: Plan) -> dict[str, str]:
    return {f"{cell.job.composition.label}/{cell.job.seed}": cell.key for cell in plan.cells}


def keys(plan: Plan, stage: str, label: str = "cheap") -> set[str]:
    found = [cell for cell in plan.cells if cell.job.composition.label == label]
    return {each.key for cell in found for each in cell if each.name == stage}


def test_full_precision_is_always_there_and_first(bench: Bench) -> None:
    for methods in ("cheap", "cheap,fp", "fp,cheap", "cheap,cheap"):
        assert list(cells(bench.plan(methods))) == ["fp/0", "cheap/0"]
    assert list(cells(bench.plan("fp", seeds=(3, 1)))) == ["fp/3", "fp/1"]
    assert list(cells(bench.plan("cheap", seeds=(0, 1)))) == ["fp/0", "fp/1", "cheap/0", "cheap/1"]


def test_full_precision_with_a_quantizer_is_not_the_reference(bench: Bench) -> None:
    plan = bench.plan("fp[quantizer=round,calibration=noise,w=4,a=4]")
    assert [(cell.is_reference, str(cell.job.composition.precision)) for cell in plan.cells] == [
        (True, "w32a32"),
        (False, "w4a4"),
    ]


def test_the_order_of_methods_changes_no_key(bench: Bench) -> None:
    assert cells(bench.plan("cheap,cheap[a=8],failing")) == cells(bench.plan("failing,fp,cheap[a=8],cheap"))


def test_what_a_change_of_the_request_leaves_alone(bench: Bench) -> None:
    base = bench.plan("cheap,cheap[a=8]")
    assert keys(base, "calibrate") == keys(base, "calibrate", "cheap[a=8]")
    assert keys(base, "quantize") != keys(base, "quantize", "cheap[a=8]")
    seeds = bench.plan("cheap", seeds=(0, 1))
    assert keys(base, "sample") < keys(seeds, "sample")
    assert not keys(base, "score") & keys(seeds, "score")
    more = bench.plan("cheap", images=32)
    assert keys(base, "quantize") == keys(more, "quantize")
    assert not keys(base, "sample") & keys(more, "sample")
    slower = bench.plan("cheap[slow=1]")
    assert keys(base, "calibrate") == keys(slower, "calibrate", "cheap[slow=1]")
    assert not keys(base, "quantize") & keys(slower, "quantize", "cheap[slow=1]")


def test_a_distiller_is_trained_on_the_quantizers_set_when_it_names_none(bench: Bench) -> None:
    cell = bench.plan("cheap[distiller=copy]").cells[1]
    assert cell.model.inputs["calibration"].key == cell.model.inputs["model"].inputs["calibration"].key
    with pytest.raises(UserError, match=r"the distiller copy gets no calibration set.*distiller_calibration=NAME"):
        bench.plan("cheap[quantizer=none,distiller=copy]")
    alone = bench.plan("cheap[quantizer=none,distiller=copy,distiller_calibration=noise]").cells[1]
    assert [stage.name for stage in alone.model] == ["calibrate", "export", "distill"]


def test_the_source_of_a_plugin_is_in_its_keys(bench: Bench, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(PLUGINS, copied / "pqbench_plugins.py")
    assert cells(Bench(tmp_path, Registry.discover(copied)).plan()) == cells(bench.plan())
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "pqbench_plugins.py").write_text(PLUGINS.read_text() + "\n# mended\n")
    other = Bench(tmp_path, Registry.discover(changed)).plan()
    assert not keys(bench.plan(), "quantize") & keys(other, "quantize")
    assert keys(bench.plan(), "export", "fp") == keys(other, "export", "fp")


def test_code_of_the_reports_is_in_no_key_and_that_of_the_core_in_every_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = graph._ROOT
    copy = tmp_path / "pqbench"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))

    def planned() -> dict[str, str]:
        graph._source.cache_clear()
        return {stage.name: stage.key for stage in bench.plan(engines=("torch",)).cells[0]}

    with monkeypatch.context() as patch:
        patch.setattr(graph, "_ROOT", copy)
        before = planned()
        for part in ("report/tables/table.py", "cli/run.py", "run/execution/progress.py"):
            with (copy / part).open("a") as file:
                file.write("# changed\n")
        assert planned() == before
        with (copy / "scoring" / "formulas" / "frechet.py").open("a") as file:
            file.write("# changed\n")
        assert {name for name, key in planned().items() if key != before[name]} == {"score", "time"}
        with (copy / "diffusion" / "ddim.py").open("a") as file:
            file.write("# changed\n")
        assert not set(planned().values()) & set(before.values())
    graph._source.cache_clear()


def test_another_torch_is_in_every_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage.key for stage in bench.plan().cells[0]}
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert not before & {stage.key for stage in bench.plan().cells[0]}


def test_another_release_of_what_builds_the_workloads_net_is_in_every_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = bench.plan()
    assert plan.workload_facts["libraries"] == f"diffusers {version('diffusers')}"
    before = {stage.key for stage in plan.cells[0]}
    monkeypatch.setattr("pqbench.scoring.libraries.installed_version", lambda name: "9.9.9")
    assert not before & {stage.key for stage in bench.plan().cells[0]}


def test_engines_that_simulate_come_first_and_their_order_changes_no_key(bench: Bench) -> None:
    plans = [bench.plan("fp", engines=engines) for engines in (("torch", "openvino"), ("openvino", "torch", "torch"))]
    assert {plan.cells[0].job.engines for plan in plans} == {("torch", "openvino")}
    assert cells(plans[0]) == cells(plans[1])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[int]], Path]:
    """Writes a calibration set of the tiny workload with these time steps."""

    def write(t: list[int]) -> Path:
        workload = TinyWorkload()
        x_t = torch.zeros(len(t), *workload.shape)
        path = tmp_path / "c.safetensors"
        CalibrationSet(x_t, torch.tensor(t), workload.fingerprint(), {}, workload.prediction).save(path)
        return path

    return write


@pytest.mark.parametrize(
    ("method", "left_out", "is_refused"),
    [
        ("cheap[distiller=halves,distiller_calibration={}]", 0, True),
        ("cheap[distiller=halves,distiller_calibration={}]", 1, False),  # the student never visits every second step
        ("cheap[distiller=halves,halvings=2,distiller_calibration={}]", 2, True),
        ("cheap[distiller=learns,distiller_calibration={}]", 1, True),
        ("cheap[distiller=halves,calibration={}]", 0, True),  # the quantizer's set serves the distiller too
        ("cheap[calibration={}]", 0, False),
        ("cheap[distiller=copy,distiller_calibration={}]", 0, False),
    ],
)
def test_a_file_that_lacks_a_step_of_the_student_is_refused_before_anything_is_computed(
    bench: Bench, written: Callable[[list[int]], Path], method: str, left_out: int, is_refused: bool
) -> None:
    run = TinyWorkload().timesteps(TinyWorkload.steps).tolist()
    path = written([t for i, t in enumerate(run) if i != left_out])
    if not is_refused:
        assert bench.plan(method.format(path)).cells
        return
    with pytest.raises(UserError, match=rf"c\.safetensors, for cheap.*the first is {run[left_out]}\)"):
        bench.plan(method.format(path))


def test_a_file_of_another_schedule_is_refused_for_a_distillation(
    bench: Bench, written: Callable[[list[int]], Path]
) -> None:
    run = TinyWorkload().timesteps(TinyWorkload.steps).tolist()
    foreign = next(t for t in range(1000) if t not in run)
    path = written([*run, foreign])
    with pytest.raises(UserError, match=rf"c\.safetensors, for .*holds the time step {foreign}, which the teacher's"):
        bench.plan(f"cheap[distiller=halves,distiller_calibration={path}]")


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_by_default_full_precision_alone_runs_on_its_strongest_line_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    missing = "" if has_bfloat16 else "no bfloat16 here"
    monkeypatch.setattr(OpenVinoBf16, "available", lambda self: missing)
    lines = ("openvino-bf16",) if has_bfloat16 else ()
    plan = bench.plan("cheap[w=8,a=8],fp[distiller=copy,distiller_calibration=noise],cheap", engines=("auto",))
    engines = {cell.job.composition.label: cell.job.engines for cell in plan.cells}
    # The last one gives peak memory: the same engine for all.
    assert engines.pop("cheap") == engines.pop("cheap[w=8,a=8]") == ("torch", "openvino")
    assert set(engines.values()) == {(*lines, "torch", "openvino")}
    assert len(engines) == 2
    assert {c.job.engines for c in bench.plan(engines=("torch", "openvino")).cells} == {("torch", "openvino")}
    judged = bench.plan(engines=("auto",), judge="engine").cells[0].job.judge
    assert judged is not None
    assert judged.name == "openvino"


def test_on_a_gpu_auto_is_int8_of_torch_beside_bfloat16_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pqbench.engines.compiled.shutil.which", lambda name: name)
    chosen = choose_engines((AUTO,), "cuda", Registry.discover())
    assert (chosen.every, chosen.lines) == (("torch", "torch-int8"), ("torch-compile",))


def test_another_graphics_card_makes_everything_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `CUDA_VISIBLE_DEVICES=1` gives one on a node with two."""
    found: dict[str, list[str]] = {"cpu": [], "cuda": []}
    with monkeypatch.context() as patch:
        for card in ("", "H100", "H200"):
            patch.setattr(torch.cuda, "is_available", lambda there=bool(card): there)
            patch.setattr(torch.cuda, "get_device_name", lambda _, name=card: name)
            for device, keys in found.items():
                (_, cell) = bench.plan("cheap", engines=("torch",), device=device).cells
                keys += [stage.key for stage in cell]
                assert cell.timing is not None
                assert ("driver" in cell.timing.facts) == bool(device == "cuda" and card)
    each = len(found["cpu"]) // 3
    assert found["cpu"] == 3 * found["cpu"][:each]
    assert len(set(found["cuda"])) == 3 * each


def test_auto_stands_alone(bench: Bench) -> None:
    with pytest.raises(UserError, match="--engines auto,torch names engines beside auto"):
        bench.plan(engines=("auto", "torch"))


def test_the_budget_sets_what_is_measured(bench: Bench) -> None:
    plan = bench.plan(images=None, budget="standard")
    assert plan.protocol.n == plan.preset.images == PRESETS["standard"].images
    assert plan.protocol.bootstrap_resamples == PRESETS["standard"].resamples
    assert bench.plan(images=77).preset.images == 77
    assert default_folder(plan) == Path("results/tiny-standard")


@pytest.mark.parametrize(
    ("methods", "request_", "message"),
    [
        ("cheep", {}, "no method 'cheep'. Did you mean cheap"),
        ("cheap[slwo=1]", {}, "no parameter 'slwo'. Did you mean slow"),
        ("cheap[w=0]", {}, "w=0 is not a precision: use 2 to 8 bits, or 32"),
        ("cheap[a=99]", {}, "a=99 is not a precision"),
        ("cheap[slow=-1]", {}, "slow=-1 is out of range"),
        ("cheap[quantizer=none,w=4]", {}, "needs a quantizer"),
        ("", {}, "cannot be read at character 1"),
        ("cheap", {"workload": "cifar"}, "There is no workload 'cifar'"),
        ("cheap", {"engines": ("onnx",)}, "There is no engine 'onnx'"),
        ("cheap", {"images": 0}, "--samples 0 is too few"),
        ("cheap", {"images": -3}, "--samples -3 is too few"),
        ("cheap", {"images": 1}, "--samples 1 is too few"),
        ("cheap", {"seeds": (1, 1)}, "--seeds 1,1 must name each seed once"),
        ("cheap", {"seeds": ()}, "must name each seed once"),
        ("cheap", {"device": "tpu"}, "does not run on tpu: use --device cpu or cuda"),
    ],
)
def test_requests_that_cannot_be(bench: Bench, methods: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        bench.plan(methods, **request_)
    assert message in str(raised.value)


def test_seeds_are_whole_numbers() -> None:
    assert parse_seeds(" 0, 12,-3") == (0, 12, -3)
    for text in ("", "1,,2", "one", "1.5"):
        with pytest.raises(UserError, match="write it like 0,1,2"):
            parse_seeds(text)
