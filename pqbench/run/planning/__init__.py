"""run.planning."""
