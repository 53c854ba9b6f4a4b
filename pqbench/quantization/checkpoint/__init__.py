"""quantization.checkpoint."""
