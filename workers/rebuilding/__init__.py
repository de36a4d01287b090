"""Compositions made again with other experts: the request of before, and the command."""
