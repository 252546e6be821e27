"""Which row or molecule is in which split: rules, and files that say so."""
