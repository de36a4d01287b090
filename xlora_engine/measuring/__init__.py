"""Effect of an adapter, routing statistics, bootstrap intervals."""
