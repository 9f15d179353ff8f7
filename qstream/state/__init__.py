"""What is remembered: one Redis hash a key, versioned, fenced against zombies, with the offsets that the state has seen."""
