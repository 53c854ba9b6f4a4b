"""The quantization core: grids, ranges, quantized layers, learned step sizes, packing and the bit audit."""
