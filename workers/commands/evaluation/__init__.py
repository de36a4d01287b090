"""The commands that measure: `zoo eval`, and aliases that move only to what is no worse."""
