"""Projects, their members and the people of the organisation."""
