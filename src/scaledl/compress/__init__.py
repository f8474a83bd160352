"""Compression: stages that take a model and give a smaller one, and the chain that runs them."""
