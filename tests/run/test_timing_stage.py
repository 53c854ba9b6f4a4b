"""The stage that times: on engines that execute a model for real, and nothing from a simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_runs import Bench

from pqbench.base.errors import UserError
from pqbench.run import plan as plans


def test_latency_comes_from_engines_that_execute_the_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(plans.PRESETS["quick"], timing_seconds=0.1, timing_processes=1, throughput_batch=2)
    monkeypatch.setitem(plans.PRESETS, "quick", quick)
    records = bench.run("cheap[w=8,a=8]", engines=("torch", "openvino"))
    assert [record.status for record in records.values()] == ["ok", "ok"]
    timed = {
        label: {name.partition("@")[2] for name in record.metrics if name.startswith("latency_ms_per_image@")}
        for label, record in records.items()
    }
    assert timed["fp/0"] == {"torch/1", "torch/2", "openvino/1", "openvino/2"}
    assert timed["cheap[w=8,a=8]/0"] == {"openvino/1", "openvino/2"}
    protocols = bench.folder.manifest().protocols
    for record in records.values():
        memory = record.metrics["peak_memory_bytes"]
        assert memory.detail["engine"] == "openvino"
        for name, metric in record.metrics.items():
            if "@" in name or name == "peak_memory_bytes":
                assert metric.value > 0 or name == "parity@torch"  # eager torch is what it is compared with
                assert protocols[metric.protocol]["family"] in ("energy", "latency", "memory", "parity")
    assert bench.run("cheap[w=8,a=8]", engines=("torch", "openvino")) == records


def test_an_engine_that_cannot_run_here_is_refused_before_any_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pqbench.engines.openvino import OpenVino

    monkeypatch.setattr(OpenVino, "available", lambda self: "openvino is not installed: pip install openvino.")
    with pytest.raises(UserError, match="pip install openvino"):
        bench.run("cheap", engines=("openvino",))
    assert not bench.folder.path.exists()
