"""Plans an experiment and runs its missing trials on Ray."""
