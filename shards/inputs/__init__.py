"""Input tables: which columns a data set has, rows, a bounded number at a time."""
