"""How everything is now: status, health, top and metrics."""
