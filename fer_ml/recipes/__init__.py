"""The user's choices as typed values: profiles, training recipes, preprocessing."""
