"""Runs: one model behind one protocol, edited, captured and proved."""
