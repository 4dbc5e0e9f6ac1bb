"""What everything else rests on: errors, labels, names, files, processes, settings, logs."""
