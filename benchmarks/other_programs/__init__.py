"""Adapters that other programs made themselves, and what they compute with them there and here."""
