"""Words between librarians: messages, accounts, the client and its transports. This wing never sees a row."""
