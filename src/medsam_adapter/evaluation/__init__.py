"""How good the masks are: metrics of one mask, results of a run, tables and pictures of them."""
