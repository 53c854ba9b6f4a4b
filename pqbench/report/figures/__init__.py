"""Figures, each made from records alone and the same to the byte every time."""
