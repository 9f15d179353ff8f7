"""qstream: an event-streaming, real-time optimizer for the GPU clusters that train and serve large language models."""

__version__ = "0.1.0"
