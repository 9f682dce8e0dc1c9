"""A tuned model as files that other programs load, each export proven before it is handed out; and adapters that were
trained elsewhere, checked before they are taken in."""
