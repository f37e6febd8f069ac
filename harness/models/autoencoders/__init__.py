"""Autoencoders: between images and the latents that a diffusion network denoises."""
