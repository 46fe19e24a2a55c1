"""What to train: one file per published system, data only."""
