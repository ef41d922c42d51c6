"""Whether every file and every journal record is what was published."""
