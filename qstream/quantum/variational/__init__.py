"""Variational circuits on batches of simulated states: embeddings, entangling layers, and what is read out of them."""
