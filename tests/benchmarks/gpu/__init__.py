"""What a card computes, held against a CPU, and how long it takes."""
