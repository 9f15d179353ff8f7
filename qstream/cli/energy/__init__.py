"""The commands of the energy module, and its frames as lines."""
