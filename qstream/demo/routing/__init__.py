"""The demo scene of the routing module: a mixture-of-experts language model that trains live."""
