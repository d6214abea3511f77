"""How a connection comes in: sockets, proofs, limits, turns."""
