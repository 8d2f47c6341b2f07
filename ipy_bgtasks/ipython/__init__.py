"""The extension, its four magics, and the functions that do for Python code what they do."""
