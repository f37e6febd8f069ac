"""Encoders: networks beside the backbone that see images."""
