"""Checks of our plug-ins inside the code of engines, by `make engines`."""
