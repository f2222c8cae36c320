"""Pictures: opened one by one, found in folders, read from shards and tables."""
