"""The report of a composition: what is measured, what is decided from it, and what shows it."""
