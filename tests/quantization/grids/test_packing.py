"""Packing against numpy's own bit packing, and round trips over every width, sign and shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pqbench.base.errors import UserError
from pqbench.quantization.grids.packing import pack, packed_size, unpack

bits_and_sign = st.tuples(st.integers(2, 8), st.booleans())
shapes = st.lists(st.integers(0, 7), min_size=0, max_size=4)


def random_codes(bits: int, signed: bool, shape: list[int], seed: int) -> torch.Tensor:
    low = -(2 ** (bits - 1)) if signed else 0
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, low + 2**bits, shape, generator=generator)
    return codes.to(torch.int8 if signed else torch.uint8)


@given(bits_and_sign, shapes, st.integers(0, 2**31))
def test_what_is_packed_comes_back(kind: tuple[int, bool], shape: list[int], seed: int) -> None:
    bits, signed = kind
    codes = random_codes(bits, signed, shape, seed)
    packed = pack(codes, bits, signed)
    back = unpack(packed, bits, signed, shape)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(codes.numel(), bits) == -(-codes.numel() * bits // 8)
    assert back.dtype == codes.dtype
    assert back.shape == codes.shape
    assert torch.equal(back, codes)


@given(bits_and_sign, st.integers(0, 40), st.integers(0, 2**31))
def test_the_bit_stream_is_numpys(kind: tuple[int, bool], count: int, seed: int) -> None:
    bits, signed = kind
    codes = random_codes(bits, signed, [count], seed)
    octets = codes.numpy().astype(np.int64) & (2**bits - 1)
    stream = (octets[:, None] >> np.arange(bits)) & 1
    expected = np.packbits(stream.astype(np.uint8).ravel(), bitorder="little")
    np.testing.assert_array_equal(pack(codes, bits, signed).numpy(), expected)


def test_two_int4_share_a_byte() -> None:
    packed = pack(torch.tensor([-8, 7, 1]), 4, signed=True)
    assert packed.tolist() == [0x78, 0x01]


def test_codes_of_a_view_are_packed_in_the_order_of_the_view() -> None:
    codes = random_codes(3, True, [5, 6], 0).t()
    assert torch.equal(unpack(pack(codes, 3, True), 3, True, [6, 5]), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_buffer_of_the_wrong_length_is_refused(bits: int) -> None:
    packed = pack(random_codes(bits, False, [3, 5], 1), bits, False)
    for wrong in (packed[:-1], torch.cat([packed, packed[:1]]), packed[:0]):
        with pytest.raises(UserError, match="truncated"):
            unpack(wrong, bits, False, [3, 5])


def test_a_buffer_of_another_type_is_refused() -> None:
    with pytest.raises(UserError, match=r"torch\.int16"):
        unpack(torch.zeros(2, dtype=torch.int16), 4, False, [4])


@pytest.mark.parametrize(("codes", "signed"), [([8], True), ([-9], True), ([16], False), ([-1], False)])
def test_codes_that_do_not_fit_are_refused(codes: list[int], signed: bool) -> None:
    with pytest.raises(UserError, match="do not fit 4 bits"):
        pack(torch.tensor(codes), 4, signed)


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(UserError, match="2 to 8 bits"):
        pack(torch.tensor([0]), bits, False)
