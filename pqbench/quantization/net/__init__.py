"""quantization.net."""
