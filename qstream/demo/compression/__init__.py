"""The compression scene: a model trains, and its weights, gradients and activations travel through two agents."""
