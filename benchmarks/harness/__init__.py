"""Start a Docker engine and harm its containers, for the commands of this folder and the tests."""
