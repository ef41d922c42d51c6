"""Start a server and load it, for the commands of this folder, the demo and the tests."""
