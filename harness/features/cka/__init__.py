"""Which representations are alike? CKA of blocks, timesteps, pools, backbones and other networks."""
