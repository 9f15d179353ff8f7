"""The main job on real input: a small mixture-of-experts language model trained live, publishing its routing."""
