"""What training and serving have compiled, and how they share the processor: loops, threads, number formats."""
