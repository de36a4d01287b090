"""What both lower packages know: file formats, formats of training data, checked values. Imports none of ours."""
