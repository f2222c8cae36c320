"""Step 4: a class space on disk and on the Hub."""
