"""What users write as a method, and what it is made of: the grammar, the precision, the composition."""
