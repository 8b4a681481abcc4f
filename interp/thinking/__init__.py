"""Explicit chain of thought: its steps, their perturbation, and what each step does."""
