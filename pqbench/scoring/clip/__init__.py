"""CLIP: images and texts in one space, for metrics that ask how well an image fits its prompt."""
