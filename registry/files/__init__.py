"""Bytes: read without trust, digested, stored by digest. Knows no record."""
