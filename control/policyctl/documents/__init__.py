"""Texts that people write (YAML, TOML): read with the line of every field, and rewritten with their comments."""
