"""What else ends a response, beside the model's own end tokens (docs/ends.md)."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.flags import Settings, flag, require


@dataclass
class StopFlags(Settings):
    """Tokens and texts of the user's that end a response."""

    stop_token: list[str] | None = flag(
        None,
        "Further tokens that end a response, beside the model's own end tokens; each is one token "
        "of the vocabulary. May be given several times.",
        repeatable=True,
        group="Ends of responses",
    )
    stop_text: list[str] | None = flag(
        None,
        "Texts that end a response: the token that completes one of them is its last. They may "
        "begin and end inside tokens. May be given several times.",
        repeatable=True,
    )
    include_stop_text: bool = flag(
        False,
        "The response's text, as rewards see it, ends with the stop text; else it ends before it. "
        "The tokens are the same.",
    )

    def check_stops(self) -> None:
        """Refuse what can end nothing; raises `UserError`."""
        for name in ("stop_token", "stop_text"):
            given = getattr(self, name) or []
            require(all(given), f"{self.flag(name)} '': an empty text ends nothing. Remove it.")
            require(
                len(set(given)) == len(given),
                f"{self.flag(name)} {' '.join(map(repr, given))}: one is given twice.",
            )
        require(
            bool(self.stop_text) or "include_stop_text" not in self.given,
            f"{self.flag('include_stop_text')} needs {self.flag('stop_text')}.",
        )
