"""The command line: one module a verb. It speaks to the server as any program does, through the official client."""
