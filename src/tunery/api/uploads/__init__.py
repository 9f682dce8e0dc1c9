"""The Uploads API: a large file in parts, which may come in parallel."""
