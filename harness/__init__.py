"""Sweeps that say what a diffusion model's features are worth, and whether diffusion can write weights."""

__version__ = "0.1.0"
