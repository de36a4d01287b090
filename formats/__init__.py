"""What both lower packages know: formats of files and training data, checked values. Imports none of ours."""
