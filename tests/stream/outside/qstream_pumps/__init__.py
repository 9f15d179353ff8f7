"""A module of another package: the temperature of a rack in, the flow of its pump out."""
