import json

from tests.fer_assets.commands.conftest import Fer


def test_doctor_says_what_is_missing_and_what_to_do(fer: Fer) -> None:
    done = fer("doctor", "-p", "ferplus", "--json")
    assert done.returncode == 1
    findings = {f["what"]: f for f in json.loads(done.stdout)}
    assert findings["data ferplus"]["state"] == "blocks"
    assert "[roots]" in findings["data ferplus"]["fix"]
    assert findings["detector haar"]["state"] == "ok"
