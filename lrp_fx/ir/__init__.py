"""The intermediate representation: what a graph is, and what is known of its operations."""
