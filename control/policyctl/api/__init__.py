"""The control API: HTTP before the services, for machines and people elsewhere.

Thin, as the command line is: parse, ask who it is, call a service, render. It
decides nothing that the services decide.
"""
