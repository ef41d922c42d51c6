"""The watch after a switch: what it sees, what that proves, and the rollback that follows."""
