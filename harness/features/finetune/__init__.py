"""Fine-tuning: the backbone up to a block learns together with the head that stands on it."""
