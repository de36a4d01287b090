"""The `zoo` commands that make something or serve: register, train, eval, compose, generate, worker."""
