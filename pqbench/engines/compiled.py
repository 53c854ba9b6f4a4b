"""Nets compiled by torch.compile: what all engines on inductor share."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.base.cpu import cpu_facts
from pqbench.base.devices import device_of
from pqbench.base.errors import UserError
from pqbench.contracts import ExecutedLayer
from pqbench.engines.captured import executed_layers
from pqbench.engines.torch_eager import threads_set_to
from pqbench.quantization.net.output_correction import OutputCorrection

_COMPILERS = ("g++", "clang++", "c++")
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def missing_compiler(engine: str) -> str:
    """Empty, or that there is no C++ compiler, which inductor needs for a CPU and to launch kernels on a GPU."""
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
    if any(map(shutil.which, wanted)):
        return ""
    return f"The engine {engine} needs a C++ compiler, and none of {', '.join(wanted)} is found: install g++."


@dataclass(frozen=True)
class Lowering:
    """How a net is compiled.

    floats    type of the arithmetic in floating point
    options   inductor's
    kept      modules whose own numbers stay in float32 all the same, beside the correction of the output: it compares
              time steps, and bfloat16 has no 999
    """

    floats: torch.dtype
    options: Mapping[str, Any]
    kept: tuple[type[nn.Module], ...] = ()

    @classmethod
    def for_device(cls, device: str, kept: tuple[type[nn.Module], ...] = ()) -> Lowering:
        """bfloat16 and CUDA graphs (what `mode="reduce-overhead"` sets) on a GPU, float32 elsewhere."""
        if device == "cuda":
            return cls(torch.bfloat16, {"triton.cudagraphs": True}, kept)
        return cls(torch.float32, {}, kept)

    def apply(self, net: nn.Module) -> nn.Module:
        """`net`, its floating-point numbers brought to `floats` in place."""
        for module in net.modules():
            if not isinstance(module, (OutputCorrection, *self.kept)):
                module._apply(self._converted, recurse=False)  # type: ignore[no-untyped-call]
        return net

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.floats) if tensor.is_floating_point() else tensor


def compile_net(
    net: nn.Module, names: Collection[str], lowering: Lowering, threads: int, example: tuple[Tensor, ...]
) -> CompiledExecutable:
    """Compile `net`, which the executable then owns, and run it once: inductor compiles when called.

    names   of the modules that operations are traced back to (see `pqbench.engines.captured`)

    Raises `UserError` when torch cannot compile the net as a whole.
    """
    _separate_cache()
    executable = CompiledExecutable(net, names, lowering, threads)
    try:
        with warnings.catch_warnings():
            # Inductor's own imports use what torch deprecates.
            warnings.simplefilter("ignore")
            executable(*example)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torch.compile cannot compile this net ({reason}): time it with another engine.") from error
    return executable


def _separate_cache() -> None:
    """Give capped kernels a cache folder of their own.

    Inductor's cache does not know the instruction set: a process that is capped to AVX2 would run what another one
    compiled for AVX-512, on weights packed for AVX2, which gives wrong numbers or a segmentation fault.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    caps = cpu_facts()["caps"].values()
    # Inductor writes its default into the environment when it is imported.
    if caps and os.environ.get(_CACHE, default_cache_dir()) == default_cache_dir():
        os.environ[_CACHE] = "-".join([default_cache_dir(), *caps])


class _Whole(nn.Module):
    """A net with its hooks: torch compiles those of the outermost module apart from it, as graphs of their own.

    Torch counts by the code how often it compiled it, and has a limit: so each net has code of its own.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        own = FunctionType(_Whole.forward.__code__.replace(), globals())
        self.forward = MethodType(own, self)  # type: ignore[method-assign]

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the net predicts, its hooks done."""
        prediction: Tensor = self.net(*inputs)
        return prediction


class CompiledExecutable:
    """A compiled denoiser; its inputs have the shapes for which it was compiled."""

    def __init__(self, net: nn.Module, names: Collection[str], lowering: Lowering, threads: int) -> None:
        self._whole, self._names, self._lowering, self._threads = _Whole(lowering.apply(net)), names, lowering, threads
        self._device = device_of(net)
        self._layers: list[ExecutedLayer] = []
        # The net is this executable's own and never changes. To ask before each step whether each of its tensors is
        # still the same took a tenth of the step's time.
        unguarded: dict[str, str | int | bool | Callable[..., Any]] = {
            "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe
        }
        self._compiled: Callable[..., Tensor] = torch.compile(
            self._whole, backend=self._backend, dynamic=False, fullgraph=True, options=unguarded
        )

    def __call__(self, x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """One step. The prediction is brought back to the inputs' device and float32, a tensor of its own."""
        inputs = [self._input(each) for each in (x_t, t, *condition)]
        # Past its limit of compilations torch would run the net eagerly, without a word.
        strict: AbstractContextManager[object] = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
        with torch.no_grad(), threads_set_to(self._threads), strict:
            # CUDA graphs write every prediction into the same memory.
            return self._compiled(*inputs).to(x_t.device, torch.float32, copy=True)

    def layers(self) -> tuple[ExecutedLayer, ...]:
        """The operations of the graph that inductor was given, with its types, which inductor keeps.

        Which kernels inductor generated for them is not read back.
        """
        return tuple(self._layers)

    def _input(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._lowering.floats if tensor.is_floating_point() else None)

    def _backend(self, graph: torch.fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        """Notes what is in the captured graph and hands it to inductor."""
        from torch._inductor.compile_fx import compile_fx

        self._layers = list(executed_layers(graph, self._whole, self._whole.net, self._names))
        compiled = compile_fx(graph, example, config_patches=dict(self._lowering.options))
        assert callable(compiled)
        return compiled
