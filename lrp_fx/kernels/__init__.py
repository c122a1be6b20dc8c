"""Kernels: operations of our own, for what a graph of torch's operators would need too much memory for."""
