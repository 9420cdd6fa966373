"""What runs experiments: problems, methods, the runner that keeps their results, tables, plots, notebooks."""
