"""Validation rules for any manifest, their reports, and labels worth a second look."""
