"""What a user would pick instead, in the same table: methods on one split, with one protocol and one budget."""
