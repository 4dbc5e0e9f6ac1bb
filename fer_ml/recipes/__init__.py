"""The choices of a person: profiles, training recipes, preprocessing."""
