"""The report of a composition as a page that opens without a network."""
