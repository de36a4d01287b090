"""What only a GPU can prove: parity, speed, memory and whole jobs there, by one command without a network."""
