"""What travels between agents and a coordinator: `frames` delimit, `messages` mean."""
