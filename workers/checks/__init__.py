"""One module for each thing that `zoo doctor` looks at; `workers.diagnosis` has the table."""
