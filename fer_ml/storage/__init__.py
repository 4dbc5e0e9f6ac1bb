"""Storage of hashed artifacts: run directories, records, receipts, gates and the object store."""
