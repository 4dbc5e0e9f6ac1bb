"""A training as a folder: its format, its runner and its launcher; torch, timm, numpy alone."""
