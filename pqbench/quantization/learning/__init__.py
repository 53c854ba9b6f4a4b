"""What is learned: rounding, step sizes, reconstruction block by block."""
