"""What is shown of a step that failed."""

from deploytool.connection.step import telling


def test_failed_pip_shows_its_error_and_not_the_downloads_before_it() -> None:
    downloads = [
        "Collecting django==5.2",
        "  Downloading django-5.2-py3-none-any.whl (8.0 MB)",
        "     ━━━━━━━━━━━━━━━━━━━━━━━━ 8.0/8.0 MB 30.1 MB/s eta 0:00:00",
        "Using cached sqlparse-0.5.3-py3-none-any.whl (44 kB)",
        "  Preparing metadata (pyproject.toml): started",
    ]
    errors = ["ERROR: No matching distribution found for nosuch==9", "make: *** [all] Error 1"]
    assert telling([*downloads, *errors]) == tuple(errors)
    # What ended in the middle of them has nothing else to show.
    assert telling(downloads) == tuple(downloads)
