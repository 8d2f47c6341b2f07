"""Views: pure functions that turn jobs into rows, and rows into text or HTML."""
