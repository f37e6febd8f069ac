"""Probes without a cache: heads that learn from a stream of forward passes, nothing of which is stored."""
