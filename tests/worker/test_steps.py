"""What becomes of a step's output: bytes in, masked lines out, and the last of them for the screen."""

from deploytool.text.masking import Masking
from deploytool.worker.steps import LINE_BYTES, SHOWN_CHARACTERS, TAIL_LINES, Lines, Tail


class CountedMasking(Masking):
    """Counts how often it is asked."""

    asked = 0

    def text(self, text: str) -> str:
        self.asked += 1
        return super().text(text)


def test_halves_of_lines_and_of_characters_wait_for_the_rest() -> None:
    lines = Lines(Masking())
    assert lines.feed(b"one\ntw") == "one\n"
    assert lines.feed(b"o\n\xe2\x80") == "two\n"
    assert lines.feed(b"\xa6\r50 %\r100 %\n") == "…\n50 %\n100 %\n"
    assert lines.feed(b"end") == ""
    assert lines.feed(b"", final=True) == "end\n"
    assert lines.feed(b"", final=True) == ""


def test_what_is_no_utf8_is_replaced() -> None:
    assert Lines(Masking()).feed(b"\xff\xfe\n") == "\ufffd\ufffd\n"


def test_a_secret_is_masked_wherever_the_bytes_were_cut() -> None:
    data = b"a\nthe word is hunter2, and hunter2\n"
    for cut in range(len(data)):
        lines = Lines(Masking(["hunter2"]))
        assert lines.feed(data[:cut]) + lines.feed(data[cut:]) == "a\nthe word is ***, and ***\n"


def test_a_line_without_an_end_is_not_kept() -> None:
    lines = Lines(Masking(["hunter2"]))
    written = 0
    for _ in range(100):
        written += len(lines.feed(b"x" * LINE_BYTES).replace("\n", ""))
    assert 100 * LINE_BYTES - written <= 2 * LINE_BYTES


def test_ten_thousand_short_lines_cost_no_more_than_one() -> None:
    masking = CountedMasking(["hunter2"])
    assert Lines(masking).feed(b"ok\n" * 10_000) == "ok\n" * 10_000
    assert masking.asked <= 2


def test_the_tail_has_the_last_lines_however_they_came() -> None:
    wanted = [str(number) for number in range(1_000)]
    for together in (1, 7, TAIL_LINES, 1_000):
        tail = Tail()
        for first in range(0, 1_000, together):
            tail.add("".join(f"{line}\n" for line in wanted[first : first + together]))
        assert tail.lines == wanted[-TAIL_LINES:]


def test_empty_lines_are_lines_and_nothing_is_none() -> None:
    tail = Tail()
    tail.add("")
    assert tail.lines == []
    tail.add("\n\n")
    assert tail.lines == ["", ""]


def test_a_long_line_is_shown_short_and_says_so() -> None:
    tail = Tail()
    tail.add("x" * SHOWN_CHARACTERS + "\n" + "y" * 70_000 + "\n")
    assert tail.lines == ["x" * SHOWN_CHARACTERS, "y" * SHOWN_CHARACTERS + " … (70000 characters)"]
