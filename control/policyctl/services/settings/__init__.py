"""Settings explained, compared and written."""
