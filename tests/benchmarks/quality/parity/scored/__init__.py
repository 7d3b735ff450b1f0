"""SAEs that other libraries stored, scored by saemill from the command line."""
