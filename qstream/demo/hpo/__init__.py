"""The hpo scene: two studies tune the same small language model, one with the defaults and one by Sobol points."""
