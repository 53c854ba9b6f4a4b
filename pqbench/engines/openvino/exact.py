"""Exact int8 products on every CPU.

Kernels without VNNI multiply unsigned by signed bytes with `vpmaddubsw`, which adds pairs of products in 16 bits and
saturates: 64 products of 255 and 127 give 1,048,544 instead of 2,072,640. `protect` finds out once per process whether
the kernels here do so. If they do, it lets every product that could saturate run in float32; all others stay int8.

This file needs openvino and numpy alone. `pqbench export` copies it into the folders that it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import openvino
from openvino import opset15 as ops

LIMITS = -(1 << 15), (1 << 15) - 1
"""The 16 bits in which a pair of products is added."""
KINDS = "linear", "convolution", "depthwise", "attention"
"""Products that have kernels of their own."""
_CHANNELS, _LEVELS, _LARGEST = 64, 256, 127
_MOVES = (
    "Broadcast",
    "Concat",
    "Convert",
    "Gather",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "StridedSlice",
    "Transpose",
    "Unsqueeze",
    "VariadicSplit",
)
"""Operations that move numbers without changing them."""


def protect(model: Any) -> Any:
    """Let products of `model` that would saturate on this CPU run in float32, in place; returns the model.

    What CPUs with SSE4.1 alone have no kernel for is written in other operations: linear layers with integer weights
    under float inputs, and nearest upsampling.

    model   an `openvino.Model` whose layers are fake quantization on 256 levels and int8 constants times a scale
    """
    upsamplings = [operation for operation in model.get_ordered_ops() if operation.get_type_name() == "Interpolate"]
    if upsamplings and not runs_upsampling():
        for upsampling in upsamplings:
            _repeat_pixels(upsampling)
    for product, kind in _products(model):
        quantizer = _quantizer(product.input_value(0).get_node())
        if quantizer is None:
            if kind == "linear" and not runs_integer_weights():
                _hold_in_float(product)
        elif kind not in saturating_kinds():
            continue
        elif kind == "attention":
            other = _quantizer(product.input_value(1).get_node())
            if other is not None and _operands_can_saturate(quantizer, other):
                _write_out(quantizer)
        elif _can_saturate(_highest_code(quantizer), _codes(product)):
            _hold_in_float(product)
    return model


@cache
def saturating_kinds() -> frozenset[str]:
    """Which of `KINDS` saturate in this process: found by running the largest products once."""
    return frozenset(kind for kind in KINDS if _saturates(kind))


@cache
def runs_integer_weights() -> bool:
    """Whether this CPU has a kernel for integer weights under float inputs: found by compiling one."""
    x = ops.parameter((8, _CHANNELS), np.float32)
    return _compiles(_with_weights("linear", x), x)


@cache
def runs_group_norm() -> bool:
    """The same for group normalisation, which CPUs with SSE4.1 alone have no kernel for."""
    x = ops.parameter((1, _CHANNELS, 4, 4), np.float32)
    ones = ops.constant(np.ones(_CHANNELS, np.float32))
    return _compiles(ops.group_normalization(x, ones, ones, 4, 1e-5), x)


@cache
def runs_upsampling() -> bool:
    """The same for nearest upsampling by two."""
    x = ops.parameter((1, _CHANNELS, 4, 4), np.float32)
    scales, axes = ops.constant(np.array([2.0, 2.0], np.float32)), ops.constant(np.array([2, 3]))
    return _compiles(ops.interpolate(x, scales, "nearest", "scales", axes=axes), x)


def _compiles(operation: Any, x: Any) -> bool:
    try:
        _compiled(operation, [x])
    except RuntimeError:
        return False
    return True


def _saturates(kind: str) -> bool:
    """Whether products of the largest codes are not the sum of integers that they should be."""
    space = () if kind in ("linear", "attention") else (4, 4)
    shape = (8, _CHANNELS) if not space else (1, _CHANNELS, *space)
    x = ops.parameter(shape, np.float32)
    codes = _quantized(x, 0, _LEVELS - 1)
    if kind == "attention":
        y = ops.parameter((_CHANNELS, 8), np.float32)
        inputs, product = [x, y], ops.matmul(codes, _quantized(y, -_LEVELS // 2, _LARGEST), False, False)
    else:
        inputs, product = [x], _with_weights(kind, codes)
    compiled = _compiled(product, inputs)
    given = [np.full(each.shape, (_LEVELS - 1, _LARGEST)[i], np.float32) for i, each in enumerate(compiled.inputs)]
    found = compiled(given)[0]
    sums = 1 if kind == "depthwise" else _CHANNELS
    pixels = 9 if space else 1
    return not np.array_equal(found, np.full_like(found, sums * pixels * (_LEVELS - 1) * _LARGEST))


def _compiled(product: Any, inputs: list[Any]) -> Any:
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return openvino.Core().compile_model(openvino.Model([product], inputs), "CPU", settings)


def _with_weights(kind: str, codes: Any) -> Any:
    """`codes` times weights that are all the largest code."""
    shapes = {
        "linear": (8, _CHANNELS),
        "convolution": (8, _CHANNELS, 3, 3),
        "depthwise": (_CHANNELS, 1, 1, 3, 3),
    }
    stored = ops.constant(np.full(shapes[kind], _LARGEST, np.int8))
    weights = ops.multiply(ops.convert(stored, np.float32), ops.constant(np.float32(1)))
    if kind == "linear":
        return ops.matmul(codes, weights, False, True)
    convolve = ops.group_convolution if kind == "depthwise" else ops.convolution
    return convolve(codes, weights, [1, 1], [0, 0], [0, 0], [1, 1])


def _quantized(x: Any, low: int, high: int) -> Any:
    bounds = [ops.constant(np.float32(bound)) for bound in (low, high, low, high)]
    return ops.fake_quantize(x, *bounds, _LEVELS)


def _products(model: Any) -> Iterator[tuple[Any, str]]:
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            codes = _codes(operation)
            if codes is not None:
                yield operation, "depthwise" if kind == "GroupConvolution" and codes.shape[1] == 1 else "convolution"
        elif kind == "MatMul":
            if _codes(operation) is not None:
                yield operation, "linear"
            elif _quantizer(operation.input_value(1).get_node()) is not None:
                yield operation, "attention"


def _quantizer(node: Any) -> Any:
    """The fake quantization on 256 levels whose numbers `node` hands on, or None."""
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    is_byte = node.get_type_name() == "FakeQuantize" and node.get_attributes()["levels"] == _LEVELS
    return node if is_byte else None


def _stored(product: Any) -> Any:
    """The constant that holds the int8 weights of a product, or None where it has none."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in (*_MOVES, "Multiply"):
        node = node.input_value(0).get_node()
    is_stored = node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8
    return node if is_stored else None


def _codes(product: Any) -> Any:
    """These weights, (out, in, ...), or None."""
    stored = _stored(product)
    return None if stored is None else stored.get_data()


def _range(quantizer: Any) -> tuple[float, float, float, float]:
    """A quantizer's step; in steps, the number of its first code, and the lowest and the highest that leave it."""
    low, high = (float(quantizer.input_value(place).get_node().get_data().item()) for place in (1, 2))
    step = (high - low) / (_LEVELS - 1)
    before = quantizer.input_value(0).get_node()
    if before.get_type_name() == "Clamp":
        bounds = before.get_attributes()
        return step, low / step, max(low, bounds["min"]) / step, min(high, bounds["max"]) / step
    return step, low / step, low / step, high / step


def _highest_code(quantizer: Any) -> int:
    """The largest unsigned byte that stands for its output: kernels move signed bytes up by 128."""
    _, first, _, high = _range(quantizer)
    return round(high - first)


def _can_saturate(code: int, weights: Any) -> bool:
    """Whether any two weights of an output, which may lie side by side in a kernel, leave 16 bits at this code."""
    rows = np.sort(weights.reshape(len(weights), -1).astype(np.int64), axis=1)
    if rows.shape[1] == 1:
        return False
    lowest, highest = LIMITS
    smallest = np.minimum(rows[:, :2], 0).sum(1) * code
    largest = np.maximum(rows[:, -2:], 0).sum(1) * code
    return bool((smallest < lowest).any() or (largest > highest).any())


def _operands_can_saturate(left: Any, right: Any) -> bool:
    """The same for a product of two activations, whichever of them a kernel takes as the unsigned one."""

    def pair(unsigned: Any, signed: Any) -> float:
        _, _, low, high = _range(signed)
        return 2 * _highest_code(unsigned) * max(-low, high)

    return max(pair(left, right), pair(right, left)) > LIMITS[1]


def _hold_in_float(product: Any) -> None:
    """Give a product its weights as float32 numbers, under which no int8 kernel is chosen."""
    values = openvino.Core().compile_model(openvino.Model([product.input_value(1)], []), "CPU")([])[0]
    weights = ops.constant(np.array(values, np.float32))
    weights.set_friendly_name(_stored(product).get_friendly_name())
    product.input(1).replace_source_output(weights.output(0))


def _write_out(quantizer: Any) -> None:
    """Fake quantization as plain arithmetic, which is not recognised and so stays in float32."""
    step, _, low, high = _range(quantizer)
    steps = ops.divide(quantizer.input_value(0), ops.constant(np.float32(step)))
    whole = ops.round(ops.clamp(steps, round(low), round(high)), "half_to_even")
    written = ops.multiply(whole, ops.constant(np.float32(step)))
    written.set_friendly_name(quantizer.get_friendly_name())
    quantizer.output(0).replace(written.output(0))


def _repeat_pixels(upsampling: Any) -> None:
    """Nearest upsampling by whole factors as copies of each pixel; any other upsampling stays as it is."""
    before, after = upsampling.input(0).get_partial_shape(), upsampling.output(0).get_partial_shape()
    if upsampling.get_attributes()["mode"] != "nearest" or any(before[i].is_dynamic for i in (1, 2, 3)):
        return
    channels, height, width = (before[i].get_length() for i in (1, 2, 3))
    tall, wide = (after[i].get_length() for i in (2, 3))
    if tall % height or wide % width:
        return
    pixels = ops.constant(np.array([-1, channels, height, 1, width, 1]))
    copies = ops.constant(np.array([1, 1, 1, tall // height, 1, wide // width]))
    tiled = ops.tile(ops.reshape(upsampling.input_value(0), pixels, False), copies)
    written = ops.reshape(tiled, ops.constant(np.array([-1, channels, tall, wide])), False)
    written.set_friendly_name(upsampling.get_friendly_name())
    upsampling.output(0).replace(written.output(0))
