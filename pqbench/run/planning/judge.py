"""What makes the images that are judged: the simulation, or an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pqbench.base.cpu import cpu_facts, instruction_words, instructions_of
from pqbench.base.devices import card_facts
from pqbench.base.errors import UserError
from pqbench.base.packages import package_versions
from pqbench.components import Registered, Registry
from pqbench.contracts import Engine
from pqbench.scoring.protocol import SIMULATION

Judge = Literal["simulation", "engine", "auto"]
JUDGES: tuple[Judge, ...] = get_args(Judge)

AUTO_IMAGES = 5000
"""From this many images a cell on, `auto` lets an engine make them: then compiling is small beside sampling."""
PARITY_IMAGES = 256
"""First images that the simulation makes as well when an engine is judged."""


@dataclass(frozen=True)
class EngineJudge:
    """The engine whose images are judged.

    facts   what decides its arithmetic beside the model: its sources, the packages, the CPU and the threads, the card
            where there is one. Kernels differ between instruction sets, so the same model makes other images on another
            machine
    """

    name: str
    engine: Engine
    facts: dict[str, Any]

    @property
    def words(self) -> str:
        """For the protocol: the engine with all that its images depend on."""
        cpu = self.facts["cpu"]
        instructions = instruction_words(instructions_of(cpu))
        kernels = "".join(f", {kind} {what}" for kind, what in self.facts["kernels"].items())
        version = self.facts["versions"].get(self.name.partition("-")[0])
        title = f"engine {self.name} {version}" if version else f"engine {self.name}"
        card = f", {self.facts['card']}" if "card" in self.facts else ""
        return f"{title}, {self.facts['threads']} threads, {cpu['model']} ({instructions}){kernels}{card}"


def choose_judge(
    judge: str, engines: Sequence[str], device: str, images: int, registry: Registry
) -> EngineJudge | None:
    """The engine whose images are judged; None: the simulation's are.

    engine   the first of `engines` that executes quantized models on the device
    auto     the same from `AUTO_IMAGES` images on, where there is one, else the simulation: a rule that gives the same
             answer every time, which no measured speed would

    Raises `UserError` for another word and when `engine` finds none.
    """
    if judge not in JUDGES:
        raise UserError(f"--judge {judge} is not known: use {', '.join(JUDGES)}.")
    if judge == SIMULATION or (judge == "auto" and images < AUTO_IMAGES):
        return None
    for name in engines:
        found = registry.find("engine", name)
        if found.component.executes_quantized and device in found.component.devices:
            engine = found.component()
            return EngineJudge(name, engine, _facts(found, engine, device))
    if judge == "auto":
        return None
    raise UserError(
        f"--judge engine needs an engine that executes quantized models on {device}: add one to --engines, or use "
        "--judge simulation."
    )


def _facts(found: Registered[Engine], engine: Engine, device: str) -> dict[str, Any]:
    return {
        "engine": found.qualified_name,
        "source_hash": found.provenance.source_hash,
        "versions": package_versions(),
        "cpu": {key: value for key, value in cpu_facts().items() if key != "cores"},
        "kernels": dict(engine.kernels()),
        "threads": torch.get_num_threads(),
        **card_facts(device),
    }
