"""One part of each kind, as a package outside the harness has them."""
