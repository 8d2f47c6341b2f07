"""IPython in a terminal as a front end."""
