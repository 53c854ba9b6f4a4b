"""scoring.formulas."""
