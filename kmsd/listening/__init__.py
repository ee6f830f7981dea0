"""Parts of the listener: what a node shows as its head, what its logs mean, who else saw them, one reader each."""
