"""The checks of `zoo doctor`: one module each; `workers.checks.diagnosis` has the table."""
