"""Views that keep themselves up to date: the live table and the panel, and what feeds them."""
