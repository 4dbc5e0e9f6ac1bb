"""Removing people: purges, their log, and how long recordings are kept."""
