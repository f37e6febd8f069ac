"""Heads: classifiers trained on frozen features."""
