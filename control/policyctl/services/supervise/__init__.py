"""One running Triton: start it, load what the journal says, probe it, and end with it."""
