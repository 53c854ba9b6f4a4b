"""Composition of a method from its components: roles, options, ablations."""
