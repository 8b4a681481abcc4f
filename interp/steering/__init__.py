"""Steering: directions, what a dose of one does, and what it breaks."""
