"""One alias over many servers: what a store's journal says is served by every node that reads it."""
