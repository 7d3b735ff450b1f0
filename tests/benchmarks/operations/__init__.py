"""What it takes to train again and again: plans, and how far runs are from them."""
