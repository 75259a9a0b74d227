"""What prepare, train, evaluate and predict share: reading, splitting, caching, checkpoints, figures, pictures."""
