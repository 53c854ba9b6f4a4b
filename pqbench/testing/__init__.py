"""For tests of plugins: a tiny workload, and the contracts of all kinds as calls."""
