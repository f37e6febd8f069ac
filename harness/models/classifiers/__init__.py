"""Classifiers: the networks whose weights study 2 generates."""
