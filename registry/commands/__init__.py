"""The `zoo` commands for looking at and managing what the registry holds."""
