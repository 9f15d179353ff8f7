"""The demo scene of the nvlink module: the real token routing of a model that trains, on a fabric of modelled GPUs."""
