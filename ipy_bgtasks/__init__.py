"""Shell job control for Python, inside the IPython or Jupyter session you already have."""
