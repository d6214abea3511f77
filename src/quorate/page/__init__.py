"""The status page of a coordinator, and what it tells machines. Needs the extra `server`."""
