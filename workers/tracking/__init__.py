"""What was measured, kept in a local spool and shipped to MLflow."""
