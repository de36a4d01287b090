"""One noun a module: what can be done with base models, adapters, datasets, compositions, evaluations."""
