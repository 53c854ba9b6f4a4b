"""Documents about one thing: an audit, a comparison, a diagnosis, the card of an exported folder."""
