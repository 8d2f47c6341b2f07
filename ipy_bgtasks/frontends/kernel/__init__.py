"""A Jupyter kernel as a front end."""
