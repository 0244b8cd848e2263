"""Judge a signed receipt: open its envelope, weigh what binds it, and judge the receipt inside."""

from __future__ import annotations

from datetime import datetime

from tritium.gates import _logged, _signature
from tritium.gates._check import Check
from tritium.gates._policy import Policy
from tritium.receipts.keys import Trust
from tritium.receipts.statement import SignedReceipt


def binding_checks(
    data: bytes, trust: Trust, policy: Policy, *, demands: _signature.Demands, log: _logged.LogEvidence, now: datetime
) -> tuple[list[Check], SignedReceipt | None]:
    """Return the checks of level E4 and, where the signature is good, the receipt that was signed."""
    checks, envelope, signed = _signature.open_envelope(data, trust)
    if envelope is None or signed is None:
        return checks, None
    key_id = envelope.signatures[0].key_id
    inclusion, proof, result = _logged.registration(envelope, signed, log, trust, now)
    intent = _logged.announcement(signed, key_id, log, trust, proof, result, policy)
    is_announced = inclusion.status == "PASS" and intent.status == "PASS"
    checks.append(_signature.key_check(envelope, signed, trust, result.time if result else None, now))
    checks += _signature.demand_checks(signed, demands, is_announced, now)
    checks += [inclusion, intent, *_logged.whole_log(signed, key_id, log, trust, proof, now, policy)]
    return checks, signed
