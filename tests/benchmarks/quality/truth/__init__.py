"""Recovery of known features, beside SAELens' own training."""
