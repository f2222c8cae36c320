"""Files: read anywhere, written whole, locked; and the connection to the Hub."""
