"""The dialect of Responses: its items and requests as a chat that says the same, a chat's answer as a response."""
