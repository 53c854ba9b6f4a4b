"""How images are scored: protocol, reference, features, metrics.

Formulas, extractors, sources of images and weights each have a subpackage.
"""
