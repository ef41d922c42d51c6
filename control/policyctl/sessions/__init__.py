"""Run an artifact: one module a runtime.

A backend answers with these sessions, and an export proves an artifact with
them: so what was certified is what serves, down to the options of the runtime.
A session knows names, types and order from the contract, and nothing of Triton.
"""
