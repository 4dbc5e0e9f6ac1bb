"""Metrics from stored per-sample predictions, calibration, the benchmark and the selection."""
