"""Worker threads as a place."""
