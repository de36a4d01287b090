"""File formats and checked values that both lower packages share. Imports none of our other packages."""
