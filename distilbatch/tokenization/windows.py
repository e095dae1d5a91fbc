"""Which tokens of a text or of a pair are kept: truncation and text windows, as pure integers."""

from __future__ import annotations

from collections.abc import Sequence

from distilbatch.errors import ConfigError, RowError

STRATEGIES = ("longest_first", "only_first", "only_second")
SIDES = ("right", "left")


def kept_lengths(lengths: Sequence[int], *, room: int, strategy: str, text: int = 0) -> list[int]:
    """Return how many tokens of each text stay.

    Args:
        lengths: Tokens of a text, or of the two texts of a pair.
        room: Most tokens of them together.
        strategy: ``longest_first`` takes tokens off the longer text of a pair, one by one; ``only_first`` and
            ``only_second`` leave the other text whole.
        text: What an error calls it.

    Raises:
        RowError: The text to cut would have to lose all of its tokens.
    """
    excess = sum(lengths) - room
    if excess <= 0:
        return list(lengths)
    if strategy == "longest_first" and len(lengths) == 2:
        shorter = min(*lengths, room // 2)
        return [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]
    cut = 1 if strategy == "only_second" else 0
    if lengths[cut] <= excess:
        raise RowError(
            f"text {text}: truncation {strategy} would leave nothing of it",
            expected=f"more than {excess} tokens to cut from",
            found=str(lengths[cut]),
            remedy="use longest_first or a larger max_length",
        )
    return [length - excess if number == cut else length for number, length in enumerate(lengths)]


def text_windows(num_tokens: int, *, room: int, stride: int, side: str = "right") -> list[tuple[int, int]]:
    """Cut a text into text windows.

    Args:
        num_tokens: Tokens of the text.
        room: Most tokens of a window.
        stride: Tokens that a window shares with the one before it.
        side: ``right`` begins at the start of the text and goes right, ``left`` begins at its end.

    Returns:
        Token ranges ``[start, stop)``, at least one, the one that truncation would keep first.

    Raises:
        ConfigError: ``stride`` is not below ``room``, so that windows would get nowhere.
    """
    if num_tokens <= room:
        return [(0, num_tokens)]
    if not 0 <= stride < room:
        raise ConfigError("stride", expected=f"0 to {room - 1}, below the tokens of a text window", found=str(stride))
    count = 1 + -(-(num_tokens - room) // (room - stride))
    starts = [i * (room - stride) for i in range(count)]
    ranges = [(start, min(start + room, num_tokens)) for start in starts]
    if side == "right":
        return ranges
    return [(num_tokens - stop, num_tokens - start) for start, stop in ranges]
