"""Three small question sets, bio, protein and materials, built from openly licensed packages."""
