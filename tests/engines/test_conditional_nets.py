"""Engines on conditional nets: compiled with the conditions' shapes, and timed under them."""

from __future__ import annotations

from pathlib import Path

import pytest
from openvino_kernels import LAYER_NORM_BREAKS

from pqbench.contracts import Engine, Workload
from pqbench.engines.openvino.engine import OpenVino
from pqbench.engines.torch_eager import TorchEager
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.testing import check_engine
from pqbench.testing.conditional import TinyLabelled, TinyText
from pqbench.timing.measure import TimingSpec, measure


@pytest.mark.parametrize("workload", [TinyLabelled(), TinyText()], ids=lambda w: w.name)
@pytest.mark.parametrize("engine", [TorchEager(), OpenVino()], ids=lambda e: e.name)
def test_engines_answer_as_eager_torch_does(engine: Engine, workload: Workload) -> None:
    if LAYER_NORM_BREAKS and isinstance(engine, OpenVino) and isinstance(workload, TinyText):
        pytest.skip("the net has layer norms")
    assert check_engine(engine, workload=workload) == ""


@pytest.mark.slow
def test_a_conditional_net_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "fp.safetensors"
    save_checkpoint(TinyText().denoiser(), path)
    spec = TimingSpec(
        workload="pqbench.testing.conditional:TinyText", checkpoint=str(path), engine="openvino", steps=4,
        batches=(1, 2), threads=1, seconds=0.1, processes=1,
    )  # fmt: skip
    found = measure(spec)
    assert all(found[f"latency_ms_per_image@openvino/{batch}"].value > 0 for batch in (1, 2))
