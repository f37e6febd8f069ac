"""Diffusion backbones: how they are configured, numbered into blocks, opened, noised and read."""
