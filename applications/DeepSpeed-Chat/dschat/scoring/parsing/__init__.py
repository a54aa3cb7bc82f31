"""Constituency trees of responses, for macro actions by parsing. Knows no model and no tensor."""
