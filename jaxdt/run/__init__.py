"""A run directory and what one does with it."""
