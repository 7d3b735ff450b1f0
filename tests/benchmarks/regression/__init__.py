"""Whether this tree still does what an earlier commit did."""
