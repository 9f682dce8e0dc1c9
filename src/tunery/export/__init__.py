"""A tuned model as files that other programs load, each export proven before it is handed out."""
