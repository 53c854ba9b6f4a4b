"""Where images and prompts come from: folders and files, and what may be wrong with them."""
