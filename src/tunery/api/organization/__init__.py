"""OpenAI's admin API: projects, people, keys, limits, usage, costs and the audit log of one organisation."""
