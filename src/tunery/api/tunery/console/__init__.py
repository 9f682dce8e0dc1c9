"""Jobs, models and scores as the dashboard shows them."""
