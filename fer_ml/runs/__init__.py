"""Run directories of trainings, teachers' logits, ensembles and soft labels."""
