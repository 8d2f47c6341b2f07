"""What touches IPython, ipykernel and prompt_toolkit: whose output it is, and where it shows."""
