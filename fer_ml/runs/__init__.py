"""What trainings, teachers' logits, ensembles and soft labels leave in their run folders."""
