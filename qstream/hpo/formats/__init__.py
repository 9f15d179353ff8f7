"""Formats that users have: files of spaces and of past metrics, and the samplers of other tools."""
