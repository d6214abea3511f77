"""One run, as the coordinator decides about it: who is there, who is lost, who waits. Pure."""
