"""The code that a job runs. torch lives here."""
