"""Generators of parameters: the autoencoder of flat vectors and the denoiser of its latents."""
