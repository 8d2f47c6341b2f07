"""Shell commands as a place."""
