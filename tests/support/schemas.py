"""The official schemas of what is published beside an archive."""

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage


def checked_sbom(text: str) -> Any:
    """The document, once CycloneDX's schema has nothing against it."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, str(problem)[:2000]
    return json.loads(text)


def checked_provenance(text: str) -> Any:
    """The statement, once in-toto's and SLSA's own messages have taken it: an unknown field is an error there."""
    document = json.loads(text)
    Statement.copy_from_pb(ParseDict(document, StatementMessage())).validate()
    ParseDict(document["predicate"], Provenance())
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    return document
