"""Study 2: can a diffusion model write network weights?"""
