"""The web console at `/ui`: pages for people, on top of the calls of the control API.

A form does what a route of the API does, by calling its function. Most pages
show what such a function answers; the card of a release and what was served at
a time come from the services that the commands use. Every request passes the
API's guard, so rights, rates, refusals and the audit are the API's.
"""
