"""The agent of `quorate run`: worker processes, their environment, restarts, signals, output."""
