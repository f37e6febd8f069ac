"""Turns rows into one HTML page."""
