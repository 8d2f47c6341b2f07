"""What is hooked into Python itself, once: threads, streams, and questions to the user."""
