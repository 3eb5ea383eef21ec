"""Studies: one command each, from runs to a table and a figure."""
