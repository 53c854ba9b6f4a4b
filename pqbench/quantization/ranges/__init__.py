"""quantization.ranges."""
