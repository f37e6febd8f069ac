"""Which representations are similar? CKA of blocks, timesteps, pools, backbones and encoders."""
