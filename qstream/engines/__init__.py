"""Engines: what runs inside vLLM and SGLang, so that they rebalance their experts by our plans."""
