"""A face as pixels: reading, preparing, looking at a file, identity."""
