"""workloads.training."""
