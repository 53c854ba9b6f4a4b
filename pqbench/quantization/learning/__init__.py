"""quantization.learning."""
