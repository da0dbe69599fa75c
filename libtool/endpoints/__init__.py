"""Answers to peers: one handler per endpoint, message in, message out. The router is the peers' door."""
