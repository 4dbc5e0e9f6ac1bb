"""The science and the files of the platform, without Dagster."""
