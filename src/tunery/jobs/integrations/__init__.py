"""Services a job reports to while it runs."""
