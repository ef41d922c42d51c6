"""What a person asks for: promote, roll back, pin, unpin, unserve and abort, here or by URL."""
