"""The dialects that clients and engines speak: requests checked, answers read and written. One module a format."""
