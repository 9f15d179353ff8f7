"""The demo scene of the energy module: a rack of modelled GPUs that serves an hour of real requests and trains."""
