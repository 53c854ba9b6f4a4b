"""One module a format (Markdown, LaTeX, HTML, JSON, terminal), and the choice among them."""
