"""The metrics that pqbench brings, as components: each names its column, its needs, its interval and its source."""
