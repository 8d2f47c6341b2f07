"""Worker processes as a place."""
