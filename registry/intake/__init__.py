"""What a given file or folder is, and whether it fits. Knows no database."""
