"""Small copies of public data sets and file formats, made by the tests in the form in which they are distributed."""
