"""The web console at `/ui`: pages for people, on top of the calls of the control API.

A page shows what the API's own routes answer, and a form does what they do:
each function here calls the function of a route. So rights, refusals and the
audit are the API's.
"""
