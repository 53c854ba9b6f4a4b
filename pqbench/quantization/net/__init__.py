"""The quantized net: layers, attention, shortcuts, blocks, and which of them a scope takes in."""
