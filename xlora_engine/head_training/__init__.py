"""Training the scaling head: hidden states, routing warm start, mixture training."""
