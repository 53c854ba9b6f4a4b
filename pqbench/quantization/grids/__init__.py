"""quantization.grids."""
