"""The language server, `moec lsp`: what an editor shows of a `.moe` text.

Everything but `server` is pure functions of a text and a place in it, which know no protocol. A text that is
being typed is broken most of the time, so what needs no checked model works on tokens and brackets alone
(`tolerant`, `names`); what needs one takes the last that checked.
"""
