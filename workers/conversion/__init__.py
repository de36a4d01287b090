"""Adapters of other programs, and pickles, turned into PEFT's files; pickles in a process without network."""
