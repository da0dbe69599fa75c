"""What cron starts: each safe to start at any time, twice at once, and to kill anywhere."""
