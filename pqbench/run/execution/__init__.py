"""run.execution."""
