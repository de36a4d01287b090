"""One attempt of one job: claimed, run in a child process, and its end written."""
