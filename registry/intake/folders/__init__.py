"""Folders as people have them: where an adapter lies in one, what is read of it, and what is left out."""
