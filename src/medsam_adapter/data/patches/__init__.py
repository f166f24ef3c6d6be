"""What networks without prompts are trained on: a plan made from the data set, its grid, patches of cases on it."""
