"""Child processes: how they are started, watched, logged and ended. No torch, no database."""
