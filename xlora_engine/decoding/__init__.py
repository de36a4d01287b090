"""`generate`: exact decoding loops with prefetched and drafted scaling passes."""
