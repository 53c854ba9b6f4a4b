"""report.pages."""
