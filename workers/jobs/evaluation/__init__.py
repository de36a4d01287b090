"""Evaluation: what a dataset asks, what a subject answers, how that compares, and what is put on record."""
