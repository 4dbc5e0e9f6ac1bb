"""Where the pages of claims are: ``evidence/`` of an artifact root, or of a folder."""

#: The folder of the pages; ``claims/<id>.html`` in it is a claim's page.
FOLDER = "evidence"
#: From a run folder of the report to what its root is.
FROM_REPORT = "../../"


def page_of(claim: str) -> str:
    """The address of a claim's page, from the artifact root."""
    return f"{FOLDER}/claims/{claim}.html"
