"""Several devices or hosts as one: who computes which part of a batch. Knows no network."""
