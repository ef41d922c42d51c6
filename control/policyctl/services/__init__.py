"""Use cases: what each command does, without its words."""
