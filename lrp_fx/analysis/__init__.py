"""Analysis: facts about the nodes of a program: where values come from, which axes they have, what functions they
are.
"""
