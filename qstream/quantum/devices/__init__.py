"""PennyLane devices behind worker processes that can be killed."""
