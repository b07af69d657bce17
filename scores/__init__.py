"""What --evaluate computes: networks of features, distances between them, the table."""
