"""Files: untrusted ones read safely, digested, and stored by digest. Knows no record."""
