"""A job's recorded output: written from any thread, folded as in a terminal, and bounded."""
