"""Classifiers that stand on frozen features."""
