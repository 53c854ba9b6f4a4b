"""From a plan to records: cells, stages, the stage cache and the run's folder."""
