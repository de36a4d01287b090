"""Check, store, name: one use case for each kind of record."""
