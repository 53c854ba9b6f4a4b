"""Corrections: a compressed net held against full precision along denoising runs."""
