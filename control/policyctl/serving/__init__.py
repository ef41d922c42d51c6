"""Run the embedded Triton, and believe only what it answers.

``locate`` finds the server in the wheel that carries it, ``preflight`` says
whether it can work on this machine, ``backend_directory`` lays out what it
loads, and ``process`` starts, watches and stops it. ``backends`` is the code
that Triton runs in separate processes.
"""
