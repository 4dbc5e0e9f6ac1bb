"""Packed trainings (a training as a folder). Needs only torch, timm, numpy and pydantic."""
