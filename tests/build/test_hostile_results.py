"""Whatever result lines come back from the build server: they are read, or a StepError says what is wrong with them."""

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploytool.build.stages import checked_out, compared, fetched, free_kib, pending, references, unfit
from deploytool.connection.step import Code, Step, explain
from deploytool.errors import StepError
from tests.support.hostile import TEXTS, is_sound
from tests.support.stage_server import ended

SHA, DIGEST = "0123456789" * 4, "ab" * 32
#: reader → what a step of ours says to it
SAID: Mapping[Callable[[Sequence[str]], object], tuple[str, ...]] = {
    fetched: (
        f"revision\t{SHA}",
        "kind\theads",
        "committed_at\t1700000000",
        "subject\tA\ttab",
        f"linked_file\t{DIGEST}\tconfig/a b",
        "tool\truby\truby 3.3.0",
        "tool\tmute\t",
        "unmanaged\truby\t.ruby-version\t3.2",
        "asked\tnode\t.nvmrc\tlts/iron\tv18.1.0",
        f"namesake\t{SHA}",
        "unexported\t3",
        "substituted\t1",
    ),
    checked_out: (f"key\tdependencies\t{DIGEST}", f"key\tassets\t{DIGEST}", "kept\tassets", f"work_tree\t/{SHA}"),
    compared: (
        "known\tyes",
        "brings_count\t1",
        f"brings\t{SHA}\tsubject",
        "takes_away_count\t1",
        f"takes_away\t{SHA}\t",
        "migrations_told\tyes",
        "migration_added\tdb/migrate/1.rb",
        "migration_taken_away\tdb/migrate/2.rb",
    ),
    free_kib: ("free_kib\t1024",),
    references: ("references\t3",),
    pending: ("pending\t1 up",),
}
READERS = pytest.mark.parametrize(("read", "said"), SAID.items(), ids=[read.__name__ for read in SAID])
KEYS = sorted({line.partition("\t")[0] for lines in SAID.values() for line in lines})
VALUES = st.one_of(
    st.sampled_from(
        ["", "x", "\t", "\t\t", "-1", "1.5", "²", "٣", "9" * 19, "9" * 400, "9" * 5000, SHA, f"{SHA}\t", DIGEST]
    ),
    st.sampled_from([f"assets\t{DIGEST}", "assets\t../..", f"evil\t{DIGEST}", f"{SHA}\tx\n", "yes", "no", "heads"]),
    TEXTS,
)
LINES = st.tuples(st.sampled_from(KEYS), VALUES).map("\t".join) | TEXTS
few = settings(max_examples=300, deadline=None)


def read_or_sentence(read: Callable[[Sequence[str]], object], results: Sequence[str]) -> None:
    try:
        read(results)
    except StepError as error:
        assert is_sound(str(error))  # noqa: PT017


@READERS
def test_what_a_step_says_is_read(read: Callable[[Sequence[str]], object], said: tuple[str, ...]) -> None:
    assert read(said) is not None


@READERS
@pytest.mark.parametrize("junk", ["", "\t", "\t\t\t", "9" * 5000, "²", "x", "x\n"])
def test_junk_in_place_of_an_answer_is_read_or_refused_with_a_sentence(
    read: Callable[[Sequence[str]], object], said: tuple[str, ...], junk: str
) -> None:
    for place in range(len(said)):
        read_or_sentence(read, [*said[:place], said[place].partition("\t")[0] + junk, *said[place + 1 :]])
        read_or_sentence(read, [*said[:place], said[place].partition("\t")[0] + "\t" + junk, *said[place + 1 :]])


@few
@given(
    st.sampled_from(list(SAID)), st.lists(LINES, max_size=3), st.lists(LINES, max_size=2), st.sets(st.integers(0, 8))
)
@example(checked_out, ["key\tx"], [], set())
def test_any_results_are_read_or_refused_with_a_sentence(
    read: Callable[[Sequence[str]], object], before: list[str], after: list[str], left_out: set[int]
) -> None:
    kept = [line for place, line in enumerate(SAID[read]) if place not in left_out]
    read_or_sentence(read, [*before, *kept, *after])


@few
@given(
    st.sampled_from([*Code, 1, 127, 2**63 - 1]), st.lists(st.tuples(st.just("problem"), VALUES).map("\t".join) | LINES)
)
@example(Code.VERSION_MISSING, ["problem\t.ruby-version"])
@example(Code.VERSION_MISSING, [])
def test_any_failure_is_explained(code: int, results: list[str]) -> None:
    said = explain(Step("fetch", "", 60), ended(code, results))
    assert said.message
    assert is_sound(str(said))


@few
@given(st.lists(VALUES, max_size=3), VALUES)
def test_any_versions_are_compared_or_passed_over(parts: list[str], version: str) -> None:
    line = "\t".join(("unmanaged", "ruby", *parts))
    try:
        found = fetched([*SAID[fetched][:-1], line, f"tool\truby\t{version}"])
    except StepError:
        return
    assert all(isinstance(sentence, str) for sentence in unfit(found.unmanaged, found.tools))


@pytest.mark.parametrize(
    ("read", "line", "sentence"),
    [
        (
            checked_out,
            "key\tx",
            "the step checkout succeeded on the build server, but printed an invalid key",
        ),
        (checked_out, "key\tassets\t../../x", "printed an invalid key"),
        (fetched, f"committed_at\t{'9' * 5000}", "but printed no committed_at"),
        (fetched, "linked_file\t\tconfig/key", "printed an invalid linked_file"),
        (fetched, "unmanaged\truby", "printed an invalid unmanaged"),
        (compared, f"brings_count\t{'9' * 5000}", "printed no brings_count"),
        (compared, "brings\t\x1b[2J\tx", "printed an invalid brings"),
        (free_kib, "free_kib\tmuch", "printed no free_kib"),
        (references, "references\tmany", "printed no references"),
    ],
)
def test_junk_is_named_by_its_step_and_key(read: Callable[[Sequence[str]], object], line: str, sentence: str) -> None:
    key = line.partition("\t")[0]
    said = [each for each in SAID[read] if not each.startswith(f"{key}\t")]
    with pytest.raises(StepError, match=sentence):
        read([*said, line])


@pytest.mark.parametrize("read", [fetched, compared, free_kib, references])
def test_no_answer_at_all_is_an_error(read: Callable[[Sequence[str]], object]) -> None:
    with pytest.raises(StepError, match="printed no"):
        read([])
