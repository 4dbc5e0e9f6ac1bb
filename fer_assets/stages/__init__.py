"""What makes and judges each asset. No module here imports Dagster."""
