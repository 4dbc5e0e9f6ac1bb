"""Taking people out again: purges, their log, and how long recordings are kept."""
