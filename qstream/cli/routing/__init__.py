"""The commands of the routing module, and its frames as lines for people."""
