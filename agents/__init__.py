"""The agents: one thin file a module says which topics, which processor and which settings make a worker."""
