"""The command line of the nvlink module."""
