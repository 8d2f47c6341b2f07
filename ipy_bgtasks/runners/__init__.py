"""Places where work runs, one file or folder for each."""
