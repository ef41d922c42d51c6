"""How one alias moves from one placement to another, and what settles a move that a crash left open."""
