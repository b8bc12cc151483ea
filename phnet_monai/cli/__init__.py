"""The `phnet` command: one file per sub-command, no mathematics, no heavy import before a command runs."""
