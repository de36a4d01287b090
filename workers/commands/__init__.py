"""The `zoo` commands that create something or serve: register, train, eval, compose, generate, worker."""
