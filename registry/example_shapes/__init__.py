"""How people write an example down, and each way as the zoo stores it."""
