"""The `zoo` commands that make something: register, train, eval, compose, generate."""
