import json
import time
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from tunery.notify.signing import new_secret, signed_headers
from tunery.notify.webhooks import encode_event

# The example of the Standard Webhooks specification.
SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SPEC_BODY = b'{"test": 2432232314}'
SPEC_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


EVENT: dict[str, Any] = {
    "object": "event",
    "id": "evt_1",
    "type": "fine_tuning.job.succeeded",
    "created_at": 1,
    "data": {"id": "ftjob-1"},
}


def body() -> bytes:
    return encode_event(EVENT)


def test_signature_equals_the_specifications_vector() -> None:
    headers = signed_headers(
        [SPEC_SECRET], webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=SPEC_BODY
    )
    assert headers["webhook-signature"] == SPEC_SIGNATURE


def test_the_official_client_accepts_either_secret_while_one_replaces_the_other() -> None:
    old, new = new_secret(), new_secret()
    headers = signed_headers([new, old], webhook_id="wh_1", timestamp=int(time.time()), body=body())
    client = OpenAI(api_key="x")
    for secret in (old, new):
        event = client.webhooks.unwrap(body(), headers, secret=secret)
        assert event.type == "fine_tuning.job.succeeded"
        assert event.data.id == "ftjob-1"
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body(), headers, secret=new_secret())


def test_one_event_has_the_same_bytes_after_a_stay_in_the_database() -> None:
    shuffled = dict(sorted(json.loads(json.dumps(EVENT)).items()))
    assert encode_event(shuffled) == body()
