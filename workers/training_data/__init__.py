"""What an adapter is trained on: datasets as sequences, counted and compared with what is held out."""
