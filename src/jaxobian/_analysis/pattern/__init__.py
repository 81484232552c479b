"""Which elements of J can be nonzero, and which are the same for every x."""
