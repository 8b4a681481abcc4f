"""Causal abstraction: does a network compute what an algorithm computes, and how would we know."""
