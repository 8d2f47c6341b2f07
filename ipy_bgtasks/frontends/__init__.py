"""All that touches IPython, ipykernel and prompt_toolkit: whose output it is, where it shows."""
