"""Somebody who listens to one sample, and leaves after so many pieces if told to."""

from services.student.engines.port import Piece


class FakeAudience:
    """See `port.Audience`. leaves_after: how many pieces it stays for; None: to the end."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.pieces: list[Piece] = []
        self._leaves_after = leaves_after

    @property
    def gone(self) -> bool:
        return self._leaves_after is not None and len(self.pieces) >= self._leaves_after

    @property
    def heard(self) -> bool:
        return bool(self.pieces)

    def tell(self, piece: Piece) -> None:
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)
