"""`loco-otel report`: the plots and figures of a run as one HTML file."""
