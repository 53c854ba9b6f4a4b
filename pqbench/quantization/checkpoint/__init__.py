"""The packed checkpoint: its format, saving and loading."""
