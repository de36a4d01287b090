"""A worker that asks the database for jobs."""
