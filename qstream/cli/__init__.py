"""The `qstream` command: one file a group of commands, loaded when it is called."""
