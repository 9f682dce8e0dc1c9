"""Fine-tuning jobs, their events and checkpoints, and which projects may use a checkpoint."""
