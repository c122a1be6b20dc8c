"""Canonicalize: one spelling for each idea, so that later stages need to know only one."""
