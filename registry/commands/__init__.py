"""The `zoo` commands that list, show and manage records."""
