"""A worker that polls the database for jobs."""
