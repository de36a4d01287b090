"""One database: how it is opened, its clock, its schema. Knows no table of ours."""
