"""Results that were made elsewhere, taken into the lineage with what can be said of them."""

#: What an examination found, beside the files that it was about.
ADOPTION_FILE = "adoption.json"
