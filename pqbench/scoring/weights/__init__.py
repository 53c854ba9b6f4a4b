"""Files of weights that others publish: where they are kept, how they are fetched, and that they are genuine."""
