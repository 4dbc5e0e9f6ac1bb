"""The report: rendered from a template of references, and checks on any Markdown report."""
