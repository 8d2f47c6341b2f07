"""Places where work runs, one file a place."""
