"""Where the shared state is kept: bytes under a token, whatever they mean."""
