"""Measure with perf_analyzer, load a server, and roll out episodes against it."""
