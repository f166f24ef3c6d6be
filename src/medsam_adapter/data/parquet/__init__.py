"""Data sets as Parquet tables: what a cell holds, the tables, and the card beside them."""
