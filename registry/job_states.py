"""The names of the states a job can be in, for readers that do without the tables."""

#: A job in one of these stays in it, unless somebody asks for a retry.
TERMINAL_STATES = ("succeeded", "failed", "cancelled")

STATES = ("queued", "running", *TERMINAL_STATES)
