"""A training as a folder: format, runner, launcher; torch, timm, numpy and pydantic alone."""
