"""Diffusion backbones: configuration, numbering of blocks, opening, and reading of activations."""
