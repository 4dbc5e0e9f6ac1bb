"""Bytes with hashes: run folders, records, receipts, gates, and the store of another machine."""
