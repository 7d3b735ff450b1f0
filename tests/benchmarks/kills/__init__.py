"""Whether runs that are killed at random end undisturbed, and leave nothing behind."""
