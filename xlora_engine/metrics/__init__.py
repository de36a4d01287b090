"""What answers are judged by: a table of metrics, their standard errors and their paired comparison."""
