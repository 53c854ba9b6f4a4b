"""Published weights: what needs which file, fetching them, and the folder that holds them."""
