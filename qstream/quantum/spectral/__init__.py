"""Spectral quantum algorithms, simulated: QFT, QPE, HHL, quantum signal processing and the singular-value transformation."""
