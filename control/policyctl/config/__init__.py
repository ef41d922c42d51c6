"""Settings out of layers: files, profiles, the environment and the command line, and who set what.

Nothing here knows which settings there are: that is the tree in `policyctl.settings`.
"""
