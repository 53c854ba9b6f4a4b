"""Latency, memory and energy of a model on an engine, and parity of engine and simulation.

`measure` starts processes of their own (`child`), which exchange the JSON of `spec`.
"""
