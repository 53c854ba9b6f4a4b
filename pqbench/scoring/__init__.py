"""From images to numbers: features, distances, intervals, and the protocol that decides them."""
