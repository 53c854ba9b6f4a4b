"""The contract of each kind of component as one call, and what the calls share. Exported by `pqbench.testing`."""
