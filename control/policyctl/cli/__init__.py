"""The command line: parse, call a service, render. No rule lives here."""
