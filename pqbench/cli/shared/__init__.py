"""cli.shared."""
