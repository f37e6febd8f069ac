"""Generation compared with recognition: a backbone's samples, and their distance from real images."""
