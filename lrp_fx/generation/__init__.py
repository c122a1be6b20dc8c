"""Generation: what each token that a model wrote was written from."""
