"""One flat folder a family of methods; a folder is what travels to the Hub with a model."""
