"""How good the SAEs are, and whether other libraries read them right."""
