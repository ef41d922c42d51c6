"""Releases as files: export, publish, number, copy, repair and collect them."""
