"""Measurements of a release: latency, returns, and the comparison of two releases."""
