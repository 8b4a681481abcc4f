"""Latent chain of thought: latent steps as variables of a causal model, and what is done to them."""
