"""Where a project wants to be told that its jobs have ended."""
