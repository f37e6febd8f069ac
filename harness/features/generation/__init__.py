"""Generation beside recognition: samples of a backbone, and how far they are from real images."""
