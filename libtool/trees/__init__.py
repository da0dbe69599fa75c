"""The directories that routes mirror: on this host, or behind a Globus collection. A tree never sees a row."""
