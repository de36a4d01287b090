"""Read models in plain SQL, without SQLAlchemy: what `ls` and `show` print at once."""
