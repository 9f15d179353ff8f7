"""QAOA, simulated: circuits whose cost is an Ising energy."""
