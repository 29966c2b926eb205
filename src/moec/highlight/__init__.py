"""Colours for `.moe` texts: the classes of words, a Pygments lexer, a TextMate grammar.

All three come from the tables and tokens that the parser reads, so that a new construct has its colour at
once.
"""
