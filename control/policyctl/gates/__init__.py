"""One file a gate: each judges a release and leaves evidence.

A gate takes what it needs as values or callables, so it knows neither the
repository nor Triton's client. A gate that did not run has not passed.
"""
