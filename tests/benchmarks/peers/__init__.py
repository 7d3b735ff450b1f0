"""Other libraries: their environments, and what their training came to."""
