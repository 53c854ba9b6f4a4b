"""Fixtures of runs of test plugins."""

from bench_fixtures import bench, one_thread, plugins, registry

__all__ = ["bench", "one_thread", "plugins", "registry"]
