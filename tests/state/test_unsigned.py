"""A release of the store that nobody has signed, where `trust.signers` is set."""

from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.errors import StoreError
from deploytool.model.release import provenance_key, signature_key
from deploytool.state.releases import check_signer
from tests.support.histories import RELEASES
from tests.support.stores import Session, Store, built, record


def session_of(*documents: str) -> Any:
    """A session whose store has the release with these documents beside it."""
    session: Any = Session(Store({**built(RELEASES[-1]), **dict.fromkeys(documents, "text")}))
    session.settings.trust = SimpleNamespace(signers="config/signers")
    return session


THERE = provenance_key(RELEASES[-1])


@pytest.mark.parametrize("left", [(), (THERE,), (signature_key(THERE),)])
def test_release_whose_signature_was_deleted_from_the_store_is_refused(left: tuple[str, ...]) -> None:
    with pytest.raises(StoreError) as caught:
        check_signer(session_of(*left), record(RELEASES[-1]), None)
    assert f"the release {RELEASES[-1]}" in caught.value.message
    assert "--rebuild" in str(caught.value.hint)
    assert '--force "why"' in str(caught.value.hint)


def test_release_that_nobody_has_signed_goes_on_with_a_reason_and_a_note() -> None:
    session = session_of()
    assert check_signer(session, record(RELEASES[-1]), "built before there were signers") is None
    assert "forced: built before there were signers" in session.progress.getvalue()
