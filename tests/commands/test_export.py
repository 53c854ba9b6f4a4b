"""Exported folders: their example runs where neither pqbench nor torch is, and makes the engine's images."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_runs import Bench
from openvino_kernels import needs_top_k
from PIL import Image
from torch import Tensor, nn

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.commands.export import cell_source, export, require_exporting, require_free
from pqbench.components import Registry
from pqbench.contracts import CalibrationSet, Precision, Workload
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.engines.exporting import Exportable
from pqbench.engines.openvino import OpenVino
from pqbench.engines.torch_eager import TorchEager
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.quantization.net.output_correction import correct_output
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.results.records import Record
from pqbench.testing.conditional import TinyLabelled, TinyText
from pqbench.testing.tiny import TinyWorkload

BLOCKED = ("pqbench", "torch", "safetensors", "pydantic")
BLOCKER = f"""
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, ".")  # as `python sample.py` does, and isolated mode does not
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BATCH = 3


class Velocity(TinyWorkload):
    """The tiny workload, whose net is said to predict v, on one grey channel's worth of output."""

    prediction = "v"

    def decode(self, x_0: Tensor) -> Tensor:
        return super().decode(x_0)[:, :1]


def run_alone(folder: Path, noise: Tensor, **environment: str) -> Tensor:
    """The images of the folder's example from this noise, (N, C, H, W) uint8, made without pqbench and torch."""
    np.save(folder / "noise.npy", noise.numpy())
    code = f"import sys; sys.argv = ['sample.py', 'noise.npy']\n{BLOCKER}"
    child = [sys.executable, "-I", "-c", code]
    done = subprocess.run(child, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    strip = torch.from_numpy(np.array(Image.open(folder / "samples.png")))
    strip = strip if strip.dim() == 3 else strip[..., None]
    return torch.stack(strip.split(strip.shape[0], dim=1)).permute(0, 3, 1, 2)


def engine_images(net: nn.Module, steps: int, noise: Tensor) -> Tensor:
    """What the engine makes of the noise on the tiny workload."""
    workload = TinyWorkload()
    executable = OpenVino().compile(net, workload.shape, len(noise), torch.get_num_threads())
    return workload.decode(ddim_sample(executable, workload.schedule(), workload.timesteps(steps), noise))


def exportable(workload: Workload, batch: int | None) -> Exportable:
    """A full-precision net whose output is corrected by gains and biases that show in every image."""
    timesteps = workload.timesteps(workload.steps)
    gains = torch.linspace(0.8, 1.3, workload.steps)
    biases = torch.linspace(-0.3, 0.3, workload.steps)[:, None].expand(-1, workload.shape[0])
    net = correct_output(workload.denoiser(), timesteps, gains, biases)
    abar, condition = workload.schedule().alphas_cumprod[timesteps], workload.condition(0, range(4))
    return Exportable(net, workload.decode, workload.shape, batch, condition, timesteps, abar, workload.prediction)


@needs_top_k
@pytest.mark.parametrize(
    ("workload", "batch", "counts"),
    [
        (TinyLabelled(), None, (1, 4)),
        pytest.param(TinyText(), BATCH, (BATCH,), marks=pytest.mark.slow),
        pytest.param(Velocity(), BATCH, (BATCH,), marks=pytest.mark.slow),
    ],
    ids=["labels, any batch", "text", "v, grey"],
)
def test_the_example_runs_alone_and_makes_the_model_s_images(
    workload: Workload, batch: int | None, counts: tuple[int, ...], tmp_path: Path
) -> None:
    model = exportable(workload, batch)
    OpenVino().export(model, tmp_path)
    for count in counts:
        noise, condition = initial_noise(7, range(count), workload.shape), [each[:count] for each in model.condition]
        run = workload.schedule(), model.timesteps, noise
        x_0 = ddim_sample(model.net, *run, prediction=workload.prediction, condition=condition)
        difference = run_alone(tmp_path, noise).int() - workload.decode(x_0).int()
        assert int(difference.abs().max()) <= 1  # other kernels sum in another order
    assert (tmp_path / "condition.npz").exists() == isinstance(workload, TinyText)
    assert json.loads((tmp_path / "schedule.json").read_text())["alphas_cumprod"] == model.alphas_cumprod.tolist()
    check_script(tmp_path)


def test_an_exported_model_is_exact_on_a_cpu_whose_kernels_saturate(tmp_path: Path) -> None:
    workload = TinyWorkload()
    x, t = initial_noise(3, range(2), workload.shape), workload.timesteps(workload.steps)[:2]
    net = workload.denoiser()
    quantize_layers(net, Precision(8, 8), (x, t))
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    timesteps = workload.timesteps(2)
    abar = workload.schedule().alphas_cumprod[timesteps]
    OpenVino().export(Exportable(net, workload.decode, workload.shape, 2, (), timesteps, abar, "epsilon"), tmp_path)
    simulated = workload.decode(ddim_sample(net, workload.schedule(), timesteps, x)).int()
    difference = (run_alone(tmp_path, x, ONEDNN_MAX_CPU_ISA="AVX2").int() - simulated).abs()
    # Saturated, one step is 37 % off; what is left are values on the border of two codes.
    assert float(difference.float().mean()) < 1


def check_script(folder: Path) -> None:
    """The example is about ten lines, and imports what its requirements say."""
    tree = ast.parse((folder / "sample.py").read_text())
    imported = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"json", "sys", "numpy", "openvino"}
    required = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    assert required == {"openvino", "numpy", "pillow"}
    work = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert len(work) <= 15  # with its docstring


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("finished"), registry)
    bench.run("cheap[distiller=copy],cheap,cheap[w=8],failing", seeds=(0, 1))
    return bench


def test_a_cell_brings_its_steps_and_its_figures(finished: Bench, tmp_path: Path) -> None:
    name, workload = "cheap[distiller=copy]", TinyWorkload()
    source = cell_source(finished.folder, name, 1, finished.cache)
    export(source, workload, OpenVino(), BATCH, tmp_path / "exported", "pqbench export RUN cheap DIR")
    noise = initial_noise(1, range(BATCH), workload.shape)
    net = load_checkpoint(source.checkpoint, workload.architecture())
    assert source.steps == workload.steps // 2
    assert torch.equal(run_alone(tmp_path / "exported", noise), engine_images(net, source.steps, noise))
    card = (tmp_path / "exported" / "README.md").read_text()
    record = source.record
    assert isinstance(record, Record)
    fd = record.metrics["fd"]
    assert f"| FD (tiny) ↓ | {fd.value:.4g} | {fd.low:.4g} to {fd.high:.4g} | 16 | {fd.protocol} |" in card
    assert f"## Protocol {fd.protocol}" in card
    assert workload.fingerprint() in card
    assert "| `net.conv_in` | Conv2d | 4 | symmetric | 4 | asymmetric |" in card
    assert "pqbench export RUN cheap DIR" in card
    assert "## Licence" in card


@pytest.mark.parametrize(
    ("name", "seed", "sentence"),
    [
        ("chaep", 0, r"is called chaep\. Did you mean cheap\? Its methods are fp, cheap\[distiller=copy\], cheap"),
        ("cheap", None, r"cheap has several seeds: give --seed with one of 0, 1\."),
        ("cheap", 5, r"cheap has no seed 5: give --seed with one of 0, 1\."),
        ("failing", 1, r"failing w32a32 seed 1 failed, and only finished cells are exported: .*the sum of 2 \| 2 is 5"),
    ],
)
def test_a_cell_that_is_not_there(finished: Bench, name: str, seed: int | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cell_source(finished.folder, name, seed, finished.cache)


def test_a_method_s_name_stands_for_its_only_row(finished: Bench) -> None:
    assert cell_source(finished.folder, "cheap[w=8]@w8a4", 0, finished.cache).title == "cheap[w=8] w8a4 seed 0"
    with pytest.raises(UserError, match=r"No cell of .* is called cheap@w2a2"):
        cell_source(finished.folder, "cheap@w2a2", 0, finished.cache)


def test_an_engine_without_a_format_says_which_has_one() -> None:
    with pytest.raises(
        UserError, match=r"^The engine torch has no file format to export into: use --engine openvino\.$"
    ):
        require_exporting(TorchEager(), [TorchEager, OpenVino])


def test_a_folder_with_files_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    for folder, sentence in ((tmp_path, "has files in it"), (tmp_path / "precious.txt", "is a file")):
        with pytest.raises(UserError, match=sentence):
            require_free(folder)


def full(*_: object, **__: object) -> None:
    raise RuntimeError("basic_ios::clear: iostream error")  # all that OpenVINO says on a full disk


def test_a_full_disk_leaves_nothing_behind(finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    source = cell_source(finished.folder, "fp", 0, finished.cache)
    monkeypatch.setattr("openvino.save_model", full)
    with pytest.raises(UserError, match="cannot be written") as roomy:
        export(source, TinyWorkload(), OpenVino(), 2, tmp_path / "out", "")
    assert not isinstance(roomy.value, NoSpaceError)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type(usage)(usage.total, usage.total - 100, 100))
    with pytest.raises(NoSpaceError, match="No space is left"):
        export(source, TinyWorkload(), OpenVino(), 2, tmp_path / "out", "")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_another_model_are_not_kept(
    finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cell_source(finished.folder, "fp", 0, finished.cache)
    monkeypatch.setattr(OpenVino, "open_exported", lambda self, folder, threads: lambda x, t: -x)
    with pytest.raises(UserError, match="they are not this model"):
        export(source, TinyWorkload(), OpenVino(), 2, tmp_path / "out", "")
    assert list(tmp_path.iterdir()) == []
