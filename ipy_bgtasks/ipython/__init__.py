"""The extension and its four magics, which turn text into calls of the session."""
