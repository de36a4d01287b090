"""One attempt of one job: claimed, run in a job process, and its end recorded."""
