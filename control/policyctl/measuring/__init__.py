"""Measure what is served, with perf_analyzer and in environments; compare and report the results."""
