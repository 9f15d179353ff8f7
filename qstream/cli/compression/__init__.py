"""The commands of the compression module."""
