"""Responses: the same core as chat completions behind another dialect, and the state that it keeps."""
