"""What `deploytool init` does and says, from looking to the next three commands."""

from collections.abc import Callable, Iterator
from pathlib import Path

from deploytool.errors import UsageError
from deploytool.hosts.rehearsal import TEMPLATES
from deploytool.hosts.role_manifest import TEMPLATE_NAME
from deploytool.hosts.scripts import own_templates
from deploytool.init.proposal import ENVIRONMENTS, FABFILE_LINE, Given, Proposal, propose
from deploytool.init.survey import Survey, survey
from deploytool.init.writing import write_new
from deploytool.settings.files import FILL_IN
from deploytool.text.untrusted import one_line

Say = Callable[[str], None]


def init(directory: Path, given: Given, say: Say) -> None:
    """Look at the repository in `directory`, write what it lacks, and say what is next. Raises UsageError."""
    try:
        found = survey(directory)
    except OSError as error:
        raise UsageError(f"{error.filename or directory} can't be read: {error.strerror}") from None
    proposal = propose(found, given)
    written = write_new(directory, proposal.files)
    for line in _words(found, proposal, written):
        # Names of files, and what git and Capistrano were told, are the repository's words.
        say(one_line(line))


def copy_template(directory: Path, say: Say) -> None:
    """Copy the manifest's template to where a project's own is looked for. Raises UsageError."""
    file = f"{TEMPLATES}/{TEMPLATE_NAME}"
    if write_new(directory, {file: (own_templates() / TEMPLATE_NAME).read_text(encoding="utf-8")}):
        say(f"Written: {file}. Your manifests are rendered from it from now on.")
        say(f"Edit it, and see the effect with: fab {ENVIRONMENTS[0]} plan")
    else:
        say(f"Nothing was changed: {file} already exists, and your manifests are rendered from it.")


def _words(found: Survey, proposal: Proposal, written: tuple[str, ...]) -> Iterator[str]:
    shared = f"{found.place}/deploy.yml"
    if shared in written:
        width = max(len(each.setting) for each in proposal.chosen)
        values = max(len(each.value) for each in proposal.chosen)
        for each in proposal.chosen:
            yield f"{each.setting:<{width}}  {each.value:<{min(values, 44)}}  ({each.because})"
        yield ""
        yield from (f"Note: {note}" for note in proposal.notes)
        if proposal.notes:
            yield ""
    yield f"Written: {', '.join(written)}" if written else "Nothing was changed."
    left = [name for name in proposal.files if name not in written]
    if left:
        yield f"Already there, unchanged: {', '.join(left)}"
    if found.fabfile is not None:
        yield from _fabfile_words(found.fabfile)
    to_fill_in = proposal.to_fill_in if shared in written else ()
    yield ""
    yield "Next:"
    yield ""
    first = (
        (f"${{EDITOR:-vi}} {shared}", f"fill in {', '.join(to_fill_in)}, marked {FILL_IN}")
        if to_fill_in
        else (f"fab {ENVIRONMENTS[0]} settings", "show the settings, and what is missing")
    )
    steps = (
        first,
        (f"fab {ENVIRONMENTS[0]} check", "check every prerequisite"),
        (f"fab {ENVIRONMENTS[0]} deploy", "build a release and deploy it to every host"),
    )
    width = max(len(command) for command, _ in steps)
    yield from (f"    {command:<{width}}   # {what}" for command, what in steps)


def _fabfile_words(fabfile: str) -> Iterator[str]:
    if "deploytool.tasks" in fabfile:
        yield "Already there, with deploytool's tasks: fabfile.py"
        return
    yield "Already there, unchanged: fabfile.py. Add this line to it for deploytool's tasks:"
    yield f"    {FABFILE_LINE}"
    yield "and for each of its own tasks, so that fab still finds it: namespace.add_task(name_of_the_task)"
