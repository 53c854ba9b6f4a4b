"""The calibration samplers that pqbench ships, and the set that is read from a file.

A sampler of a plugin lives in its plugin.
"""
