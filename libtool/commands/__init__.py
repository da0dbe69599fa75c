"""The doors: one file per command, its options beside its deed. They translate words into calls, and decide nothing."""
