"""Saved compositions: a table of formats, one module each."""
