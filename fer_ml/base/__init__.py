"""The foundations of every other package: errors, labels, files, processes, settings, logs."""
