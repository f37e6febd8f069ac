"""The training loop shared by everything that is trained."""
