"""Every method of the official SDK that this server has, with strict validation of what it answers."""

import asyncio
import io
from http.server import BaseHTTPRequestHandler

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.api.conftest import BASE, EXAMPLE, SECRET
from tests.contract.conftest import Live
from tests.loops import run
from tests.receivers import listening

TRAIN = EXAMPLE * 12
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture
def training_file(client: OpenAI) -> str:
    return client.files.create(file=("train.jsonl", TRAIN), purpose="fine-tune").id


def test_files(client: OpenAI) -> None:
    made = client.files.create(
        file=io.BytesIO(TRAIN), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert client.files.wait_for_processing(made.id, poll_interval=0.01).status == "processed"
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == TRAIN
    assert made.id in [file.id for file in client.files.list(purpose="fine-tune", limit=1)]
    assert client.files.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(made.id)


def test_embeddings(client: OpenAI, live: Live) -> None:
    numbers = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
    assert [row.index for row in numbers.data] == [0, 1]
    # Without a format the SDK asks for base64, which it only takes when it is not strict.
    loose = OpenAI(api_key=SECRET, base_url=live.base_url, max_retries=0)
    decoded = loose.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [row.embedding for row in decoded.data] == [row.embedding for row in numbers.data]


def test_moderations_are_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no moderation model"):
        client.moderations.create(input="a text")


def test_uploads_in_parts(client: OpenAI) -> None:
    upload = client.uploads.upload_file_chunked(
        file=TRAIN, filename="big.jsonl", bytes=len(TRAIN), mime_type="text/jsonl", purpose="fine-tune", part_size=300
    )
    assert upload.status == "completed"
    assert upload.file is not None
    assert client.files.content(upload.file.id).content == TRAIN
    begun = client.uploads.create(bytes=1, filename="a", mime_type="text/plain", purpose="user_data")
    assert client.uploads.cancel(begun.id).status == "cancelled"


def test_fine_tuning_jobs(client: OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=training_file, suffix="contract", metadata={"test": "jobs"}
    )
    assert client.fine_tuning.jobs.retrieve(job.id).model == BASE
    assert [found.id for found in client.fine_tuning.jobs.list(metadata={"test": "jobs"})] == [job.id]
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
    assert messages[-1] == f"Created fine-tuning job: {job.id}"
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)


def test_pause_and_resume(live: Live, training_file: str) -> None:
    # `paused` is not among the SDK's states, so a strict client cannot read it; others can.
    client = OpenAI(api_key=SECRET, base_url=live.base_url, max_retries=0)
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training_file)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "validating_files"
    client.fine_tuning.jobs.cancel(job.id)


def test_iteration_ends(client: OpenAI, training_file: str) -> None:
    made = {client.fine_tuning.jobs.create(model=BASE, training_file=training_file).id for _ in range(5)}
    seen = [job.id for job in client.fine_tuning.jobs.list(limit=2)]
    assert made <= set(seen)
    assert len(seen) == len(set(seen))


def test_checkpoint_permissions(client: OpenAI, live: Live, tuned: str) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    made = permissions.create(tuned, project_ids=[live.project_id])
    assert [item.id for item in permissions.list(tuned)] == [made.data[0].id]
    with pytest.warns(DeprecationWarning):
        assert permissions.retrieve(tuned).data[0].project_id == live.project_id
    assert permissions.delete(made.data[0].id, fine_tuned_model_checkpoint=tuned).deleted is True


def test_graders(client: OpenAI) -> None:
    grader = {
        "type": "string_check",
        "name": "g",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "a",
    }
    assert client.fine_tuning.alpha.graders.run(grader=grader, model_sample="a").reward == 1.0
    assert client.fine_tuning.alpha.graders.validate(grader=grader).grader is not None


def test_models(client: OpenAI, tuned: str) -> None:
    assert tuned in [model.id for model in client.models.list()]
    assert client.models.retrieve(tuned).shutdown_date is None
    assert client.models.delete(tuned).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(tuned)


def test_webhooks(client: OpenAI) -> None:
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with listening(Receiver) as address:
        event_type = "fine_tuning.job.failed"
        assert event_type in client.webhooks.event_types.list().data
        made = client.webhooks.create(name="mine", url=f"{address}/", event_types=["fine_tuning.job.failed"])
        assert [item.id for item in client.webhooks.list()] == [made.id]
        assert client.webhooks.update(made.id, name="yours").name == "yours"
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert client.webhooks.test(made.id, event_type=event_type).status_code == 200
        headers, body = received[0]
        for secret in (made.signing_secret, rotated.signing_secret):
            assert client.webhooks.unwrap(body, headers, secret=secret).type == event_type
        assert client.webhooks.retrieve(made.id).name == "yours"
        assert client.webhooks.delete(made.id).deleted is True


def test_chat(client: OpenAI, tuned: str) -> None:
    whole = client.chat.completions.create(model=tuned, messages=MESSAGES, max_tokens=8, temperature=0)
    assert whole.model == tuned
    assert whole._request_id is not None
    assert whole.usage is not None
    assert whole.usage.prompt_tokens_details is not None
    stream = client.chat.completions.create(
        model=tuned,
        messages=MESSAGES,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_stored_chat_completions(live: Live, client: OpenAI) -> None:
    made = client.chat.completions.create(
        model=BASE, messages=MESSAGES, max_tokens=4, store=True, metadata={"kept": "yes"}
    )
    completions = client.chat.completions
    assert [item.id for item in completions.list(metadata={"kept": "yes"})] == [made.id]
    assert completions.retrieve(made.id).choices[0].message.content == made.choices[0].message.content
    assert completions.update(made.id, metadata={"kept": "no"}).id == made.id
    # The SDK types these messages as the assistant's; OpenAI lists those of the request, the user's among them.
    messages = OpenAI(api_key=SECRET, base_url=live.base_url).chat.completions.messages.list(made.id)
    assert [(message.role, message.content) for message in messages] == [("user", "Say something.")]
    assert completions.delete(made.id).deleted is True


def test_legacy_completions(live: Live, client: OpenAI) -> None:
    made = client.completions.create(model=BASE, prompt="Once upon a time", max_tokens=4)
    assert made.object == "text_completion"
    # The SDK's type has no place for the null that finish_reason is until the last chunk, here as at OpenAI.
    loose = OpenAI(api_key=SECRET, base_url=live.base_url)
    chunks = list(loose.completions.create(model=BASE, prompt="Once", max_tokens=4, stream=True))
    assert all(chunk.model == BASE for chunk in chunks)


def test_errors_become_the_clients_classes(live: Live, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        live.client(api_key="sk-wrong-wrong-wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-17", messages=MESSAGES)
    # Older clients print the whole body, and some code looks at its end.
    assert str(missing.value.body).endswith("'code': 'model_not_found'}")
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(model="gpt-17", training_file="file-x")
    assert str(bad.value.body).endswith("'code': 'model_not_available'}")
    assert bad.value.request_id is not None


def test_async_client(live: Live) -> None:
    async def flow() -> None:
        async with AsyncOpenAI(
            api_key=SECRET, base_url=live.base_url, max_retries=0, _strict_response_validation=True
        ) as client:
            file = await client.files.create(file=("a.jsonl", TRAIN), purpose="fine-tune")
            asked = [client.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=4) for _ in range(4)]
            answers = await asyncio.gather(*asked)
            assert {answer.model for answer in answers} == {BASE}
            assert (await client.files.delete(file.id)).deleted is True

    run(flow())


def test_module_level_client(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    # DSPy and other libraries use the module itself as the client.
    monkeypatch.setattr(openai, "api_key", SECRET)
    monkeypatch.setattr(openai, "base_url", live.base_url + "/")
    file = openai.files.create(file=("a.jsonl", TRAIN), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(model=BASE, training_file=file.id, hyperparameters={})
    assert openai.fine_tuning.jobs.list_events(job.id, limit=1).data[0].message.startswith("Validating")
    openai.fine_tuning.jobs.cancel(job.id)
