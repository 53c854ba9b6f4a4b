"""What a run is: records, manifest, run folder, rows, comparisons. Nothing here runs a model or draws."""
