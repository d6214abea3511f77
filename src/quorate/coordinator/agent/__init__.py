"""The agent's side of a coordinator: one session, over as many connections as it takes."""
