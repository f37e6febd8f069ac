"""Fine-tuning: the backbone up to a block is trained together with the head that reads it."""
