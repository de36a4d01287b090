"""What `zoo doctor` looks at: one module each; `workers.checks.diagnosis` has the table."""
