"""Errors, files, text, devices, versions: what every other package may use. Nothing here imports another package."""
