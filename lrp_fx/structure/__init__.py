"""Structure: what the report names: residual streams, injections of position, sites."""
