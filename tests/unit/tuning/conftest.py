"""Tests of tuning, without a server."""
