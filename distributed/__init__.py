"""Several devices or hosts that train one run, each with a part of the batch. Knows no network."""
