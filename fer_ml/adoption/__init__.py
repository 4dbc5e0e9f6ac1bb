"""Adoption of foreign results into the lineage, with every contradiction found in their files."""

#: What an examination found, beside the files that it was about.
ADOPTION_FILE = "adoption.json"
