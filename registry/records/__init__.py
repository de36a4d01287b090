"""Base models, adapters, datasets, compositions, evaluations: rows, records and every change of them."""
