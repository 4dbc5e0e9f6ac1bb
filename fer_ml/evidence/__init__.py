"""The evidence behind claims: rows, faces and verdicts, as pages that recompute the numbers."""
