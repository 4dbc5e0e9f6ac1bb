"""The report, rendered from a template of references, and checks for any Markdown report."""
