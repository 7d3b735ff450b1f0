"""Text to report, as a user runs it: seconds, memory, figures of every architecture."""
