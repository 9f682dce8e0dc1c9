"""The Models API: base models of the catalog, and what jobs made."""
