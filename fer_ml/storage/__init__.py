"""Bytes with hashes: run directories, records, receipts, gates, and the object store."""
