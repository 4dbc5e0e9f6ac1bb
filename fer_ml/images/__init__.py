"""Pixels of faces: reading, preprocessing, inspection of files, identity."""
