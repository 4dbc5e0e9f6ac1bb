"""What a person chooses: profiles, recipes of trainings, preprocessing."""
