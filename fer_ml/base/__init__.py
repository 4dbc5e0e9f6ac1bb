"""Foundations of all other rooms: errors, labels, names, files, processes, settings, logs."""
