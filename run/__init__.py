"""A run on disk: folders and locks, settings, checkpoints, log, dry run. Knows no network."""
