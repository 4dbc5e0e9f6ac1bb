"""The evidence behind claims: rows, faces and verdicts, as pages that compute numbers again."""
