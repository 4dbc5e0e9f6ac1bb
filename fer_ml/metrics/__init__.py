"""Formulas over labels and probabilities, in numpy alone."""
