"""One file a vendor runtime; only the file that bears its name imports it."""
