"""A package outside the harness whose denoising network the harness reads."""
