"""What scripts/reproduce.py trains, how it runs it, and what others have published."""
