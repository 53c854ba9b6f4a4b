"""`pqbench calibrate`, and what a run makes of the files that it writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_plugins
import pytest
from safetensors.torch import load_file, save_file

from pqbench.calibration.ndtc import Ndtc
from pqbench.cli.main import run_command_line
from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.stages.compress import CALIBRATION, MODEL
from pqbench.testing.tiny import TinyWorkload

PLUGINS = Path(bench_plugins.__file__)
TINY = ["-w", "tiny", "-n", "16", "--engines", "none"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(PLUGINS, tmp_path / "pqbench_plugins.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def calibrate(*arguments: str) -> int:
    return run_command_line(["calibrate", "-w", "tiny", *arguments])


def run(methods: str, folder: str = "run") -> int:
    return run_command_line(["run", *TINY, "-o", folder, "-m", methods])


def drawn(path: str, sampler: str = "uniform[samples=8]") -> Path:
    assert calibrate(sampler, "-o", path) == 0
    return Path(path)


def outputs(folder: str, stage: str, file: str) -> dict[str, bytes]:
    """Of each cell with this stage, the file that the stage left, by label."""
    cache = StageCache(Path("cache"))
    return {
        record.label: (cache.folder(each.key) / file).read_bytes()
        for record in RunFolder.existing(folder).current_records()
        for each in record.stages
        if each.stage == stage
    }


def test_it_says_what_it_drew_and_the_file_holds_that(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("ndtc[samples=12]", "-o", "out/c.safetensors", "--seed", "3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    found = CalibrationSet.load(Path("out/c.safetensors"))
    expected = Ndtc(samples=12).sample(Context(TinyWorkload(), Precision(), 4, seed=3))
    assert said["digest"] == found.digest == expected.digest
    assert (said["samples"], said["shape"]) == (12, [3, 8, 8])
    assert said["time_steps"] == {"first": int(found.t.min()), "last": int(found.t.max())}
    assert said["sampler"] == found.facts["drawn_by"] == "ndtc[preset=script,mean=0.4,samples=12]"
    assert (found.facts["seed"], found.facts["steps"]) == ("3", "4")
    assert (found.workload, said["workload"]) == (TinyWorkload().fingerprint(), "tiny")
    assert Path("out/c.png").read_bytes().startswith(b"\x89PNG")

    # What is printed draws it again.
    again = drawn("again.safetensors", f"{said['sampler']}")
    assert CalibrationSet.load(again).digest != found.digest
    capsys.readouterr()
    assert calibrate(said["sampler"], "-o", "same.safetensors", "--seed", "3") == 0
    assert Path("same.safetensors").read_bytes() == Path("out/c.safetensors").read_bytes()
    shown = capsys.readouterr()
    assert found.digest in shown.out
    assert "METHOD[calibration=same.safetensors]" in shown.out
    assert "found in the cache" in shown.err


@pytest.mark.parametrize("first", ["run", "calibrate"])
def test_the_set_of_a_run_and_of_the_command_are_the_same_bytes(here: Path, first: str) -> None:
    method = "cheap[calibration=uniform,samples=8]"
    if first == "run":
        assert run(method) == 0
        drawn("c.safetensors")
    else:
        drawn("c.safetensors")
        assert run(method) == 0
    assert outputs("run", "calibrate", CALIBRATION) == {method: Path("c.safetensors").read_bytes()}
    shutil.rmtree("cache")
    assert drawn("other.safetensors").read_bytes() == Path("c.safetensors").read_bytes()


def test_a_method_makes_the_same_model_of_the_file(here: Path) -> None:
    drawn("c.safetensors")
    sampled, from_file = "cheap[calibration=uniform,samples=8]", "cheap[calibration=c.safetensors]"
    assert run(f"{sampled},{from_file}") == 0
    models = outputs("run", "quantize", MODEL)
    assert models[sampled] == models[from_file]
    record = next(r for r in RunFolder.existing("run").current_records() if r.label == from_file)
    found = CalibrationSet.load(Path("c.safetensors"))
    assert record.components["calibration"]["file"] == {
        "name": "c.safetensors",
        "digest": found.digest,
        "facts": found.facts,
    }
    assert record.trace["calibrate"][0]["digest"] == found.digest
    table = Path("run/table.md").read_text()
    footnote = f"The calibration set is the file c.safetensors (sha256 {found.digest}), drawn by uniform"
    assert footnote in table.replace("\\", "")
    assert Path("run/calibration.png").exists()


def test_the_digest_decides_and_not_the_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn("c.safetensors")
    Path("deep, er").mkdir()
    shutil.copy("c.safetensors", "deep, er/x=1].safetensors")
    assert run("cheap[calibration=c.safetensors]") == 0
    capsys.readouterr()
    assert run("cheap[calibration='deep, er/x=1].safetensors']") == 0
    assert "quantize  cached" in capsys.readouterr().err

    assert run("cheap[calibration=c.safetensors],cheap[calibration=./c.safetensors]", "both") == 0
    assert "is asked for twice" in capsys.readouterr().err
    drawn("d.safetensors", "uniform[samples=9]")
    assert run("cheap[calibration=c.safetensors],cheap[calibration=d.safetensors]", "two") == 0
    assert len(set(outputs("two", "quantize", MODEL).values())) == 2


def test_a_distiller_takes_a_file_too(here: Path) -> None:
    drawn("c.safetensors")
    assert run("cheap[distiller=copy,distiller_calibration=./c.safetensors]") == 0
    record = RunFolder.existing("run").current_records()[-1]
    assert record.components["distiller_calibration"]["file"]["name"] == "c.safetensors"
    assert record.components["calibration"]["name"] == "noise"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def without_header(path: Path) -> None:
    save_file(load_file(path), path)


def of_another_model(path: Path) -> None:
    replace(CalibrationSet.load(path), workload="0" * 64).save(path)


def of_another_resolution(path: Path) -> None:
    found = CalibrationSet.load(path)
    replace(found, x_t=found.x_t[..., :4, :4].contiguous()).save(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "There is no calibration set at c.safetensors: `pqbench calibrate"),
        (a_folder, "There is no calibration set at c.safetensors"),
        (truncated, "c.safetensors is not a complete calibration set"),
        (without_header, "c.safetensors is not a calibration set of pqbench"),
        (of_another_model, "c.safetensors: The calibration set is drawn from another model; tiny needs this one"),
        (of_another_resolution, "The calibration set is of shape (3, 4, 4); tiny needs (3, 8, 8)"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_file_that_cannot_be_used_is_one_sentence_before_any_work(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, damage: Callable[[Path], Any], message: str
) -> None:
    damage(drawn("c.safetensors"))
    shutil.rmtree("cache")
    output = ["-o", "run"] if command == "run" else []
    assert run_command_line([command, *TINY, *output, "-m", "cheap[calibration=c.safetensors]"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert not Path("run").exists()
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ndtk", "-o", "c.safetensors"], "Did you mean ndtc"),
        (["ndtc[preset=x]", "-o", "c.safetensors"], "preset=x"),
        (["ndtc[", "-o", "c.safetensors"], "The calibration sampler cannot be read at character"),
        (["ndtc,uniform", "-o", "c.safetensors"], "names 2 calibration samplers: give one"),
        (["ndtc", "-o", "c.pt"], "must end in .safetensors: give c.safetensors"),
        (["ndtc", "-o", "c.safetensors", "-w", "cifar"], "no workload 'cifar'"),
        (["ndtc", "-o", "c.safetensors", "--steps", "0"], "--steps 0 cannot be sampled: give 1 to 1000"),
        (["ndtc", "-o", "c.safetensors", "--device", "tpu"], "use cpu or cuda"),
        (["interval[every=9]", "-o", "c.safetensors"], "every=9 leaves only the first of 4"),
        (["stratified", "--steps", "5", "-o", "c.safetensors"], "5 sampling steps cannot be halved"),
        (["ndtc", "-o", "pqbench_plugins.py/c.safetensors"], "cannot be written"),
    ],
)
def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert calibrate(*arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert message in error
    assert not Path("c.safetensors").exists()


def test_a_file_that_is_there_stays_unless_forced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = drawn("c.safetensors").read_bytes()
    assert calibrate("uniform[samples=9]", "-o", "c.safetensors") == 2
    assert "c.safetensors is there already: give another -o, or --force" in capsys.readouterr().err
    assert Path("c.safetensors").read_bytes() == kept
    assert calibrate("uniform[samples=9]", "-o", "c.safetensors", "--force") == 0
    assert len(CalibrationSet.load(Path("c.safetensors"))) == 9


def test_other_sampling_steps(here: Path) -> None:
    assert calibrate("interval[samples=5]", "--steps", "5", "-o", "c.safetensors") == 0
    found = CalibrationSet.load(Path("c.safetensors"))
    assert sorted(found.t.tolist()) == sorted(TinyWorkload().timesteps(5).tolist())


@pytest.mark.parametrize("method", ["cheap[calibration={}]", "cheap[distiller=copy,distiller_calibration={}]"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_file_for_other_sampling_steps_is_refused_before_any_work(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, method: str
) -> None:
    assert calibrate("uniform[samples=8]", "--steps", "2", "-o", "c.safetensors") == 0  # each a step of four, too
    shutil.rmtree("cache")
    output = ["-o", "run"] if command == "run" else []
    label = method.format("c.safetensors")
    assert run_command_line([command, *TINY, *output, "-m", label]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"c.safetensors, for {label}: it was drawn for 2 sampling steps, and tiny takes 4: draw it with" in error
    assert not Path("run").exists()
    assert not Path("cache").exists()
    found = CalibrationSet.load(Path("c.safetensors"))
    replace(found, facts={}).save(Path("c.safetensors"))  # somebody else's set
    assert run_command_line(["plan", *TINY, "-m", label]) == 0


def test_one_file_for_several_seeds_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn("c.safetensors")
    methods = "cheap[calibration=c.safetensors],cheap[distiller=copy,distiller_calibration=c.safetensors]"
    for seeds, asked, is_said in (("0,1,2", f"{methods},cheap", True), ("0", methods, False), ("0,1", "cheap", False)):
        capsys.readouterr()
        assert run_command_line(["plan", *TINY, "--seeds", seeds, "-m", asked]) == 0
        notes = capsys.readouterr().err.splitlines()
        labels = methods.replace("],", "], ")
        note = f"A calibration set from a file is the same for all 3 seeds of {labels}: intervals between seeds leave"
        assert any(line.startswith(note) for line in notes) == is_said


PROGRESSIVE = "pqcad[distiller=none,weight_budget=2,ramp=1]"
SAMPLERS = ("ndtc[preset=text]", "uniform", "interval", "stratified")


@pytest.mark.parametrize(
    ("quantizer", "samplers"),
    [
        *((quantizer, SAMPLERS) for quantizer in ("cheap", "rtn", "ptq4dm")),
        (PROGRESSIVE, ("stratified",)),
        pytest.param(PROGRESSIVE, SAMPLERS[:3], marks=pytest.mark.slow),
    ],
)
def test_every_sampler_serves_every_quantizer(here: Path, quantizer: str, samplers: tuple[str, ...]) -> None:
    name, _, options = quantizer.rstrip("]").partition("[")
    methods, names = [], []
    for sampler in samplers:
        drawn_with, _, preset = sampler.rstrip("]").partition("[")
        text = ",".join(filter(None, [f"calibration={drawn_with}", preset, options]))
        methods.append(f"{name}[{text}]")
        names.append(drawn_with)
    assert run(",".join(methods)) == 0
    records = RunFolder.existing("run").current_records()[-len(samplers) :]
    for record, drawn_with in zip(records, names, strict=True):
        (row,) = record.trace["calibrate"]
        assert row["sampler"].startswith(drawn_with)
        assert sum(row["histogram"]) > 0
