"""Routing: where experts and their replicas live, and which replica serves each token."""
