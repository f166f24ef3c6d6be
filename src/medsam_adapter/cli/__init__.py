"""The `msa` command: one file for each subcommand, heavy imports only when one of them runs."""
