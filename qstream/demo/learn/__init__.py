"""The demo scene of learning: forecasts of this machine's CPU use, by a worker that is killed."""
