"""Places where work runs, a file or a folder each."""
