"""What leaves the server when a job ends: signed webhooks and mail, both from one outbox table."""
