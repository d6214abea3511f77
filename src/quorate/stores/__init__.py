"""Key-value stores that the nodes of a run share."""
