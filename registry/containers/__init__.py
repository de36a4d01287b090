"""Files of examples as people have them: what they are by their bytes, and the records they hold."""
