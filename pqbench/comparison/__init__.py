"""Which of two rows is better: tests that use that all rows are made from the same noise."""
