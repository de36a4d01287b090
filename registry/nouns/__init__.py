"""One module for each noun: operations on base models, adapters, datasets, compositions, evaluations."""
