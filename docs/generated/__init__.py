"""The parts of the reference that are made from the code: a table of them is in `docs.generated.hook`."""
