"""What the dashboard and the command line ask beyond OpenAI's API."""
