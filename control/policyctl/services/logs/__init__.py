"""What the control plane and Triton write to logs, and how people read it."""
