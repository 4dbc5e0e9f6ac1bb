"""Run by the Python that has roc-validator: prints what it says of a crate, without a network.

Usage: python validate_crate.py CRATE CONTEXT. CONTEXT is the JSON-LD file that stands for the
context of RO-Crate.
"""

import json
import sys
from pathlib import Path

import requests
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings


def answer(_, request, **__):
    """The context, whatever is asked for."""
    found = requests.Response()
    found.status_code, found.url, found.request = 200, request.url, request
    found.headers["Content-Type"] = "application/ld+json"
    found._content = Path(sys.argv[2]).read_bytes()
    return found


requests.adapters.HTTPAdapter.send = answer
found = [
    [issue.severity.name, issue.check.identifier, issue.message]
    for profile in ("ro-crate-1.1", "process-run-crate-0.5")
    for issue in services.validate(
        ValidationSettings(
            rocrate_uri=sys.argv[1],
            profile_identifier=profile,
            requirement_severity=Severity.RECOMMENDED,
            no_cache=True,
        )
    ).get_issues()
]
print(json.dumps(found))
