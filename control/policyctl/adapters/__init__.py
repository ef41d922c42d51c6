"""The edges: the repository on disk, the journal, the lock, Triton and its configuration."""
