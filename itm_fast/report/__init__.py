"""A page to look at runs, and the published results that belong beside them."""
