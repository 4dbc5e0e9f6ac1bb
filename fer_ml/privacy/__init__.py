"""Privacy: purges of people, the log of purges, and how long recordings are kept."""
