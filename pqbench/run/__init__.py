"""A run: plan, stage graph, cache, execution, records. What a stage does is in `stages`."""
