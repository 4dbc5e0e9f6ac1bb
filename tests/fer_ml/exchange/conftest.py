"""The store of the claims' tests."""

from tests.fer_ml.claims.conftest import chain, put, raw

__all__ = ["chain", "put", "raw"]
