"""Running saemill on more than a laptop: see README.md."""
