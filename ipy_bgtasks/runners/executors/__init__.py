"""The user's own executors as places."""
