"""Training the gate of one expert, which says of a token whether it is the expert's."""
