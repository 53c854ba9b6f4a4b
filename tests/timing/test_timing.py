"""Latency and memory, measured in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from broken_engines import NOTES, Crashing, Missing, Raising, Sleeping

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, Precision
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.net.layers import QUANTIZABLE
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.results.records import Metric
from pqbench.testing.tiny import TinyWorkload
from pqbench.timing.child import run
from pqbench.timing.measure import TimingSpec, measure
from pqbench.timing.metrics import metrics_of


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timing") / "fp.safetensors"
    save_checkpoint(TinyWorkload().denoiser(), path)
    return path


@pytest.fixture(scope="module")
def w4a4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workload, generator = TinyWorkload(), torch.Generator().manual_seed(0)
    net, x_t, t = workload.denoiser(), torch.randn(4, *workload.shape, generator=generator), torch.full((4,), 500)
    quantize_layers(net, Precision(4, 4), (x_t, t))
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x_t, t=t, workload="tiny"), MinMax)
    path = tmp_path_factory.mktemp("timing") / "w4a4.safetensors"
    save_checkpoint(net, path)
    return path


def spec(
    checkpoint: Path, engine: str, batches: tuple[int, ...] = (1,), seconds: float = 0.1, processes: int = 1
) -> TimingSpec:
    return TimingSpec(
        workload="tiny", checkpoint=str(checkpoint), engine=engine, steps=4, batches=batches, threads=1,
        seconds=seconds, processes=processes,
    )  # fmt: skip


def own(engine: type) -> str:
    return f"{engine.__module__}:{engine.__name__}"


@pytest.mark.slow
def test_a_known_speed_is_measured_and_a_slow_process_among_three_only_makes_it_noisy(
    full_precision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own(Sleeping)
    monkeypatch.setenv(NOTES, str(tmp_path))
    start, before = time.perf_counter(), psutil.Process().cpu_times()
    metrics = measure(spec(full_precision, engine, batches=(1, 2), seconds=0.6, processes=3))
    after = psutil.Process().cpu_times()
    # The parent sleeps meanwhile: one that polled would be timed with its child.
    assert after.user + after.system - before.user - before.system < 0.2 * (time.perf_counter() - start)
    step = metrics[f"latency_ms_per_step@{engine}/2"].value
    assert 10 <= step < 30
    # Four steps of a batch of two: half of four steps an image, plus the sampler's arithmetic.
    assert 20 <= metrics[f"latency_ms_per_image@{engine}/2"].value < 60
    assert 40 <= metrics[f"latency_ms_per_image@{engine}/1"].value < 120
    assert len(list(tmp_path.iterdir())) == 3
    for name, metric in metrics.items():
        if name.startswith("latency_"):
            first, slow, third = (each["value"] for each in metric.detail["processes"])
            assert slow > 1.2 * max(first, third)
            assert metric.value == max(first, third)
            assert metric.detail["noisy"]
            assert metric.n == sum(each["runs"] for each in metric.detail["processes"])
            assert metric.detail["protocol"]["processes"] == 3
    memory = metrics["peak_memory_bytes"]
    assert memory.value == max(each["value"] for each in memory.detail["processes"])
    assert memory.n == 3
    assert metrics[f"parity@{engine}"].detail["protocol"]["processes"] == 1


@pytest.fixture(scope="module")
def executed(w4a4: Path) -> dict[str, Metric]:
    return measure(spec(w4a4, "openvino", batches=(1, 4)))


def test_each_batch_has_its_latencies(executed: dict[str, Metric]) -> None:
    # Where the machine has counters that may be read, there is energy too.
    assert {name for name in executed if not name.startswith("energy_")} == {
        *(f"latency_ms_per_{what}@openvino/{batch}" for what in ("image", "step") for batch in (1, 4)),
        "parity@openvino",
        "peak_memory_bytes",
    }
    image = executed["latency_ms_per_image@openvino/4"]
    assert image.detail["threads"] == 1
    assert 0 < image.value <= image.detail["p95"]
    assert image.n == image.detail["runs"] >= 3


def test_a_quantized_model_is_executed_in_bytes(executed: dict[str, Metric]) -> None:
    precisions = dict(executed["latency_ms_per_step@openvino/1"].detail["layer_precisions"])
    assert precisions.pop("f32") in (1, 2)  # the attention, which is not quantized: one kernel, or its two products
    assert set(precisions) <= {"u8", "i8"}


def test_every_layer_is_listed_with_what_ran_and_the_type_of_its_weights(executed: dict[str, Metric]) -> None:
    detail = executed["latency_ms_per_step@openvino/4"].detail
    layers = {name: each for each in detail["layers"] for name in each["layers"]}
    quantizable = {name for name, layer in TinyWorkload().denoiser().named_modules() if isinstance(layer, QUANTIZABLE)}
    assert quantizable <= set(layers)
    assert {layers[name]["precision"] for name in quantizable} <= {"u8", "i8"}
    # Four bits are stored on disk; in OpenVINO's memory each integer takes a byte.
    assert {layers[name]["weights"] for name in quantizable} == {"i8"}
    assert set(detail["weights_held"]) == {"i8"}
    assert detail["fell_back"] == []


def test_parity_stands_beside_the_latency(executed: dict[str, Metric]) -> None:
    parity = executed["parity@openvino"]
    assert parity.detail["accepted"]
    assert parity.n == 4 * 4
    assert parity.detail["protocol"]["family"] == "parity"


def test_memory_is_that_of_a_run_at_the_largest_batch(executed: dict[str, Metric]) -> None:
    memory = executed["peak_memory_bytes"]
    assert memory.detail["batch"] == 4
    assert 0 < memory.detail["baseline"] < memory.value
    assert memory.detail["baseline"] < memory.detail["loading_peak"]


def test_protocols_are_shared_by_models_but_not_by_batches(executed: dict[str, Metric], full_precision: Path) -> None:
    given = spec(full_precision, "openvino", batches=(4,))
    theirs = metrics_of(given, [run(given)])  # what a timing process does, in this one
    assert {name: executed[name].protocol for name in theirs} == {
        name: metric.protocol for name, metric in theirs.items()
    }
    ours = executed["latency_ms_per_image@openvino/1"], executed["latency_ms_per_image@openvino/4"]
    assert ours[0].protocol != ours[1].protocol


def test_simulation_has_no_latency(w4a4: Path) -> None:
    assert measure(spec(w4a4, "torch")) == {}
    with pytest.raises(UserError, match="only simulates quantized models"):
        run(spec(w4a4, "torch"))


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (Crashing, r"^The process that timed tiny .* was killed, probably for want of memory"),
        (Raising, r"ended with status 1: ZeroDivisionError: no such kernel$"),
    ],
)
def test_a_process_that_dies_is_told_in_one_sentence(full_precision: Path, engine: type, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        measure(spec(full_precision, own(engine)))
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_not_installed_says_so(full_precision: Path) -> None:
    with pytest.raises(UserError, match=r"^The engine missing needs hardware that this machine lacks\.$"):
        run(spec(full_precision, own(Missing)))


def test_an_engine_that_does_not_exist_is_told_before_any_process_starts(full_precision: Path) -> None:
    with pytest.raises(UserError, match="There is no engine 'openvin'"):
        measure(spec(full_precision, "openvin"))


def test_a_damaged_checkpoint_is_told_in_one_sentence(full_precision: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(full_precision.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"damaged\.safetensors"):
        run(spec(damaged, "openvino"))


def test_the_timing_modules_do_not_import_a_model_library() -> None:
    """Until it holds the device, a timing process must not disturb another one by loading libraries."""
    code = "import sys, pqbench.timing.child; print('torch' in sys.modules, 'openvino' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
