"""Copy a tree to another place in parallel, and keep the copy like it."""
