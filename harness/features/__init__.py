"""Study 1: which features of a diffusion model classify images best?"""
