"""Examples as tokens, and how answers to them score."""
