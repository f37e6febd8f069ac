"""Probes without a cache: heads that learn from a stream of forward passes whose features are not stored."""
