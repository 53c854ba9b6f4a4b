"""report.tables."""
