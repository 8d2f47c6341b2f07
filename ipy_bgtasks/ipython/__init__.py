"""The extension and its four magics: text comes in, a call of the session goes out."""
