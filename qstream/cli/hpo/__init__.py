"""The commands of the hpo module, one file a command."""
