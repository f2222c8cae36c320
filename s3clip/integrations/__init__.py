"""A head where other libraries expect one of theirs."""
