"""`loco-otel top`: a live view of running processes in the terminal."""
