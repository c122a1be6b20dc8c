"""How fast an explanation is, against the gradient of the untouched model."""
