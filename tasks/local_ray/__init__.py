"""Starting a Ray cluster for this process alone."""
