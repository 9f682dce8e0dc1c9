"""OpenAI's wire contract over HTTP. One folder per resource: schemas (the wire), routes, service (the policy)."""
