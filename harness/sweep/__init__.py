"""Plans an experiment and runs what is missing on Ray."""
