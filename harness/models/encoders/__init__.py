"""Encoders: models other than the backbone that map images to vectors."""
