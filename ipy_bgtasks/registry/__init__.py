"""The jobs of one shell: their numbers, and the specs that name them."""
