"""torch.compile: kernels that inductor generates, with CUDA graphs and bfloat16 on a GPU."""

from __future__ import annotations

import copy
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts import Engine, ExecutedLayer
from pqbench.engines.torch_eager import short_name, threads_set_to
from pqbench.errors import UserError

_COMPILERS = ("g++", "clang++", "c++")
_OPERATIONS = ("conv1d", "conv2d", "linear", "scaled_dot_product_attention", "matmul", "bmm", "baddbmm")
"""Operations of a captured graph that hold nearly all multiplications."""
_PARTS = re.compile(r"\['([^']+)'\]|\.(\w+)|\[(\d+)\]")
_NOT_MODULES = ("self", "__dict__", "_modules")
"""What stands between the names of modules in dynamo's paths."""


@dataclass(frozen=True)
class TorchCompile(Engine):
    """Compiles full-precision nets with inductor: float32 on a CPU, bfloat16 with CUDA graphs on a GPU.

    Quantized nets would be compiled simulations, so it never times them.
    """

    name: ClassVar[str] = "torch-compile"
    summary: ClassVar[str] = "torch.compile in full precision: float32 on a CPU, bfloat16 with CUDA graphs on a GPU"
    executes_quantized: ClassVar[bool] = False

    def available(self) -> str:
        """Empty, or that there is no C++ compiler, which inductor needs for a CPU and to launch kernels on a GPU."""
        wanted = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
        if any(map(shutil.which, wanted)):
            return ""
        return f"The engine torch-compile needs a C++ compiler, and none of {', '.join(wanted)} is found: install g++."

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: Sequence[Tensor] = ()
    ) -> CompiledExecutable:
        """Compile a copy of `net` on the device that holds its weights, and run it once: inductor compiles when called.

        Raises `UserError` when there is no C++ compiler and when torch cannot compile the net as a whole.
        """
        missing = self.available()
        if missing:
            raise UserError(missing)
        device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
        plan = Lowering.for_device(device.type)
        executable = CompiledExecutable(copy.deepcopy(net).eval(), device, plan, threads)
        example = torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64), *condition
        try:
            with warnings.catch_warnings():
                # Inductor's own imports use what torch deprecates.
                warnings.simplefilter("ignore")
                executable(*example)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"torch.compile cannot compile this net ({reason}): time it with another engine."
            ) from error
        return executable


@dataclass(frozen=True)
class Lowering:
    """How a net is compiled: the type of its floating-point arithmetic, and inductor's options."""

    floats: torch.dtype
    options: Mapping[str, Any]

    @classmethod
    def for_device(cls, device: str) -> Lowering:
        """bfloat16 and CUDA graphs (what `mode="reduce-overhead"` sets) on a GPU, float32 elsewhere."""
        if device == "cuda":
            return cls(torch.bfloat16, {"triton.cudagraphs": True})
        return cls(torch.float32, {})


class CompiledExecutable:
    """A compiled denoiser; its inputs have the shapes for which it was compiled."""

    def __init__(self, net: nn.Module, device: torch.device, lowering: Lowering, threads: int) -> None:
        self._device, self._lowering, self._threads = device, lowering, threads
        self._layers: list[ExecutedLayer] = []
        self._compiled: Callable[..., Tensor] = torch.compile(
            net.to(lowering.floats), backend=self._backend, dynamic=False, fullgraph=True
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

        self._layers = list(_executed(graph))
        compiled = compile_fx(graph, example, config_patches=dict(self._lowering.options))
        assert callable(compiled)
        return compiled


def _executed(graph: torch.fx.GraphModule) -> Iterator[ExecutedLayer]:
    for node in graph.graph.nodes:
        operation = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and operation in _OPERATIONS:
            inputs = [_type(argument) for argument in node.args if isinstance(argument, torch.fx.Node)]
            is_layer = operation in ("conv1d", "conv2d", "linear")
            yield ExecutedLayer(_module(node), operation, inputs[0], inputs[1] if is_layer else "")


def _type(node: torch.fx.Node) -> str:
    return short_name(node.meta["example_value"].dtype)


def _module(node: torch.fx.Node) -> tuple[str, ...]:
    """The module whose code called the operation, from the stack of modules that dynamo keeps."""
    stack = node.meta.get("nn_module_stack") or {}
    innermost = [path for path, _ in stack.values()][-1:]
    return tuple(_dotted(path) for path in innermost)


def _dotted(path: str) -> str:
    """`L['self'].net.__dict__['_modules']['conv_in']` to `net.conv_in`, the name in `named_modules`."""
    parts = (quoted or plain or number for quoted, plain, number in _PARTS.findall(path))
    return ".".join(part for part in parts if part not in _NOT_MODULES)
