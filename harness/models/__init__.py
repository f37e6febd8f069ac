"""Networks, without their training."""
