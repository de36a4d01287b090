"""Read models in plain SQL, without SQLAlchemy, because `ls` and `show` must start quickly."""
