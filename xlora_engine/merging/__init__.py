"""Static merges: several adapters to one, from their weights alone."""
