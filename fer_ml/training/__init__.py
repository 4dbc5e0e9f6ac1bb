"""Training: one loop, several tasks, run folders whose metrics are those of the saved bytes."""
