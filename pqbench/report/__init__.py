"""Tables and figures, made from a run's manifest and records alone: nothing is computed again."""
