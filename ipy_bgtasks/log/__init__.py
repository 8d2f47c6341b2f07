"""A job's recorded output: written from any thread, folded as a terminal would, bounded."""
