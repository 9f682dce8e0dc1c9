"""One module per training method: how examples become rows, and what is minimised."""
