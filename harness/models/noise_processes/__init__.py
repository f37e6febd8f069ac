"""Noise processes: how a clean sample becomes noise step by step, and what leads back."""
