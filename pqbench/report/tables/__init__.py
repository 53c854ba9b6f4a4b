"""From rows to the results table: columns, values, footnotes, caption."""
