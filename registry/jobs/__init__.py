"""The life of a job: states, budgets, leases, fences, progress, log."""
