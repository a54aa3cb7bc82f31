"""Constituency trees of responses, for macro actions by parsing. Knows no model and no tensor."""

PARSERS = ["stanza", "link-grammar"]
"""The names that `dschat.parsing.parsers.open_parser` knows."""
