"""Forms that results are written in."""
