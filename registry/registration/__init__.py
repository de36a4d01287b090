"""Registration: copy, check, store, name; one use case for each kind of record."""
