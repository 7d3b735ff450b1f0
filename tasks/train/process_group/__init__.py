"""How the workers of a job meet."""
