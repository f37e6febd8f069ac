"""Pure functions that compute metrics from predictions and vectors."""
