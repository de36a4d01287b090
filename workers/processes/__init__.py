"""Child processes: starting, watching, logging and ending them. No torch, no database."""
