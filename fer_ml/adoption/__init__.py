"""Results from elsewhere, taken into the lineage with what their files contradict."""

#: What an examination found, beside the files that it was about.
ADOPTION_FILE = "adoption.json"
