"""Who signed a release, whose signatures count, and who may call the control API."""
