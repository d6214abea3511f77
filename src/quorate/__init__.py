"""quorate: an elastic rendezvous."""
