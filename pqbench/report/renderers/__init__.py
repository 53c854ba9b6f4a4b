"""report.renderers."""
