"""What every program is asked: one sequence of token ids."""

TOKENS = [[5, 9, 20, 33, 7, 8, 40, 41, 3, 2, 11, 12]]
