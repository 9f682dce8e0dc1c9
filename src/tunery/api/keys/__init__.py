"""API keys: of people, of service accounts, of administrators."""
