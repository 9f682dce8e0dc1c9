"""What was used and what it cost, by time and group."""
