"""Workloads: what is compressed and judged, and how the bundled ones were made."""
