"""What this machine is and has room for."""
