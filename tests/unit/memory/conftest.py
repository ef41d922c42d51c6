"""Tests of what is measured of memory, without a server."""
