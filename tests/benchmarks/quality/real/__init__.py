"""FVU, L0 and dead latents on a language model's activations, beside other libraries' best."""
