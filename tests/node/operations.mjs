// Every operation of fine-tuning, graders, files, uploads, models, chat, completions, responses, conversations and batches
// by the official Node SDK.
// OPENAI_BASE_URL, OPENAI_API_KEY and TUNERY_TEST_MODEL (a fine-tuned model that is there) say where and as whom;
// TUNERY_TEST_TOOL_MODEL has learnt to call `track_parcel`.
// Prints one line an operation and ends with 1 when one failed.

import assert from 'node:assert/strict';
import OpenAI, { toFile, NotFoundError, AuthenticationError, BadRequestError } from 'openai';

const client = new OpenAI({ maxRetries: 0, adminAPIKey: process.env.OPENAI_API_KEY });
const tuned = process.env.TUNERY_TEST_MODEL;
const base = 'gpt-4o-mini-2024-07-18';
const row = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello.' }] });
const train = Buffer.from(`${row}\n`.repeat(12));
const messages = [{ role: 'user', content: 'Say something.' }];
const grader = { type: 'string_check', name: 'g', operation: 'eq', input: '{{sample.output_text}}', reference: 'a' };
const PARCEL = {
  type: 'object', properties: { parcel: { type: 'string' } }, required: ['parcel'], additionalProperties: false,
};

async function collect(page) {
  const items = [];
  for await (const item of page) items.push(item);
  return items;
}

async function upload(purpose = 'fine-tune') {
  return client.files.create({ file: await toFile(train, 'train.jsonl'), purpose });
}

async function newJob(values = {}) {
  const file = await upload();
  return client.fineTuning.jobs.create({ model: 'gpt-4o-mini', training_file: file.id, ...values });
}

async function newBatch(names, values = {}) {
  const body = { model: tuned, messages, max_completion_tokens: 4 };
  const lines = names.map((custom_id) => JSON.stringify({ custom_id, method: 'POST', url: '/v1/chat/completions', body }));
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join('\n')), 'a.jsonl'), purpose: 'batch' });
  const asked = { input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' };
  return client.batches.create({ ...asked, ...values });
}

async function rejects(kind, promise, code) {
  await assert.rejects(promise, (error) => error instanceof kind && (code === undefined || error.code === code));
}

const operations = {
  async 'files.create'() {
    const file = await upload();
    assert.equal(file.bytes, train.length);
    assert.equal(file.status, 'processed');
  },
  async 'files.retrieve'() {
    const file = await upload();
    assert.deepEqual(await client.files.retrieve(file.id), file);
  },
  async 'files.list'() {
    const file = await upload();
    const ids = (await collect(client.files.list({ limit: 2 }))).map((item) => item.id);
    assert.ok(ids.includes(file.id));
    assert.equal(ids.length, new Set(ids).size);
  },
  async 'files.content'() {
    const file = await upload();
    const answer = await client.files.content(file.id);
    assert.deepEqual(Buffer.from(await answer.arrayBuffer()), train);
  },
  async 'files.waitForProcessing'() {
    const file = await upload();
    assert.equal((await client.files.waitForProcessing(file.id, { pollInterval: 10 })).status, 'processed');
  },
  async 'files.delete'() {
    const file = await upload();
    assert.equal((await client.files.delete(file.id)).deleted, true);
    await rejects(NotFoundError, client.files.retrieve(file.id));
  },
  async 'uploads.create, parts.create, complete'() {
    const values = { bytes: train.length, filename: 'big.jsonl', mime_type: 'text/jsonl', purpose: 'fine-tune' };
    const begun = await client.uploads.create(values);
    const half = Math.floor(train.length / 2);
    const halves = [train.subarray(half), train.subarray(0, half)];
    const sent = halves.map(async (data) => client.uploads.parts.create(begun.id, { data: await toFile(data, 'part') }));
    const [second, first] = await Promise.all(sent);
    const done = await client.uploads.complete(begun.id, { part_ids: [first.id, second.id] });
    assert.equal(done.status, 'completed');
    const answer = await client.files.content(done.file.id);
    assert.deepEqual(Buffer.from(await answer.arrayBuffer()), train);
  },
  async 'uploads.cancel'() {
    const begun = await client.uploads.create({ bytes: 1, filename: 'a', mime_type: 'text/plain', purpose: 'user_data' });
    assert.equal((await client.uploads.cancel(begun.id)).status, 'cancelled');
  },
  async 'batches.create, retrieve'() {
    let batch = await newBatch(['first', 'second'], { metadata: { from: 'node' } });
    assert.equal(batch.status, 'validating');
    while (!['completed', 'failed'].includes(batch.status)) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      batch = await client.batches.retrieve(batch.id);
    }
    assert.equal(batch.status, 'completed');
    assert.deepEqual(batch.request_counts, { total: 2, completed: 2, failed: 0 });
    const answers = (await (await client.files.content(batch.output_file_id)).text()).trim().split('\n').map(JSON.parse);
    assert.deepEqual(answers.map((answer) => answer.custom_id), ['first', 'second']);
    const tokens = answers.map((answer) => answer.response.body.usage.completion_tokens);
    assert.equal(batch.usage.output_tokens, tokens[0] + tokens[1]);
    await rejects(BadRequestError, client.batches.cancel(batch.id));
    await rejects(NotFoundError, client.batches.retrieve('batch_x'));
    await rejects(BadRequestError, newBatch(['a'], { endpoint: '/v1/moderations' }), 'invalid_value');
  },
  async 'batches.list, cancel'() {
    const batch = await newBatch(['one']);
    assert.ok((await collect(client.batches.list({ limit: 1 }))).some((item) => item.id === batch.id));
    assert.ok(['cancelling', 'cancelled'].includes((await client.batches.cancel(batch.id)).status));
  },
  async 'fineTuning.jobs.create'() {
    const job = await newJob({ suffix: 'node', seed: 7, metadata: { from: 'node' } });
    assert.equal(job.object, 'fine_tuning.job');
    assert.equal(job.model, base);
    assert.equal(job.error, null);
    assert.equal(job.hyperparameters.n_epochs, 'auto');
    await rejects(BadRequestError, newJob({ model: 'gpt-17' }), 'model_not_available');
  },
  async 'fineTuning.jobs.retrieve'() {
    const job = await newJob();
    assert.equal((await client.fineTuning.jobs.retrieve(job.id)).id, job.id);
    await rejects(NotFoundError, client.fineTuning.jobs.retrieve('ftjob-x'), 'fine_tune_not_found');
  },
  async 'fineTuning.jobs.list'() {
    const job = await newJob({ metadata: { only: 'this' } });
    const found = await collect(client.fineTuning.jobs.list({ limit: 1, metadata: { only: 'this' } }));
    assert.ok(found.some((item) => item.id === job.id));
  },
  async 'fineTuning.jobs.listEvents'() {
    const job = await newJob();
    const events = await collect(client.fineTuning.jobs.listEvents(job.id, { limit: 1 }));
    assert.equal(events.at(-1).message, `Created fine-tuning job: ${job.id}`);
  },
  async 'fineTuning.jobs.checkpoints.list'() {
    const job = await newJob();
    assert.deepEqual(await collect(client.fineTuning.jobs.checkpoints.list(job.id)), []);
  },
  async 'fineTuning.jobs.pause, resume'() {
    const job = await newJob();
    assert.equal((await client.fineTuning.jobs.pause(job.id)).status, 'paused');
    assert.equal((await client.fineTuning.jobs.resume(job.id)).status, 'validating_files');
  },
  async 'fineTuning.jobs.cancel'() {
    const job = await newJob();
    assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, 'cancelled');
    await rejects(BadRequestError, client.fineTuning.jobs.cancel(job.id));
  },
  async 'fineTuning.checkpoints.permissions'() {
    const permissions = client.fineTuning.checkpoints.permissions;
    const project = process.env.TUNERY_TEST_PROJECT;
    const made = await collect(permissions.create(tuned, { project_ids: [project] }));
    assert.equal(made[0].project_id, project);
    const listed = await permissions.retrieve(tuned);
    assert.deepEqual(listed.data.map((item) => item.id), [made[0].id]);
    const gone = await permissions.delete(made[0].id, { fine_tuned_model_checkpoint: tuned });
    assert.equal(gone.deleted, true);
  },
  async 'fineTuning.alpha.graders.run, validate'() {
    const result = await client.fineTuning.alpha.graders.run({ grader, model_sample: 'a' });
    assert.equal(result.reward, 1);
    assert.deepEqual((await client.fineTuning.alpha.graders.validate({ grader })).grader, grader);
  },
  async 'models.list, retrieve'() {
    const ids = (await collect(client.models.list())).map((model) => model.id);
    assert.ok(ids.includes(base) && ids.includes(tuned));
    assert.equal((await client.models.retrieve(tuned)).id, tuned);
    await rejects(NotFoundError, client.models.retrieve('ft:none:x::AbCd1234'), 'model_not_found');
  },
  async 'chat.completions.create'() {
    const whole = await client.chat.completions.create({ model: tuned, messages, max_tokens: 8, temperature: 0 });
    assert.equal(whole.model, tuned);
    assert.equal(typeof whole.usage.prompt_tokens_details.cached_tokens, 'number');
    const stream = await client.chat.completions.create({
      model: tuned, messages, max_tokens: 8, temperature: 0, stream: true,
    });
    const chunks = await collect(stream);
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), whole.choices[0].message.content);
  },
  async 'chat.completions.list, retrieve, update, delete, messages.list'() {
    const made = await client.chat.completions.create({
      model: base, messages, max_tokens: 2, store: true, metadata: { node: 'yes' },
    });
    const stored = await collect(client.chat.completions.list({ metadata: { node: 'yes' } }));
    assert.deepEqual(stored.map((item) => item.id), [made.id]);
    assert.equal((await client.chat.completions.retrieve(made.id)).id, made.id);
    const changed = await client.chat.completions.update(made.id, { metadata: { node: 'no' } });
    assert.equal(changed.metadata.node, 'no');
    const said = await collect(client.chat.completions.messages.list(made.id));
    assert.deepEqual(said.map((message) => message.content), ['Say something.']);
    assert.equal((await client.chat.completions.delete(made.id)).deleted, true);
  },
  async 'responses.create'() {
    const asked = { model: tuned, input: 'Say something.', temperature: 0, max_output_tokens: 16 };
    const answer = await client.responses.create(asked);
    assert.equal(answer.status, 'incomplete');
    assert.equal(answer.usage.output_tokens, 16);
    let text = '';
    const types = [];
    for await (const event of await client.responses.create({ ...asked, stream: true })) {
      types.push(event.type);
      if (event.type === 'response.output_text.delta') text += event.delta;
    }
    assert.equal(text, answer.output_text);
    assert.deepEqual([types[0], types.at(-1)], ['response.created', 'response.incomplete']);
  },
  async 'responses.stream'() {
    const schema = { type: 'object', properties: { a: { enum: ['x', 'y'] } }, required: ['a'], additionalProperties: false };
    const format = { type: 'json_schema', name: 'n', schema, strict: true };
    const stream = client.responses.stream({ model: tuned, input: 'Hi', max_output_tokens: 100, text: { format } });
    const final = await stream.finalResponse();
    assert.ok(['x', 'y'].includes(JSON.parse(final.output_text).a));
  },
  async 'responses.retrieve, inputItems, delete'() {
    const made = await client.responses.create({ model: tuned, input: 'Hi', max_output_tokens: 16 });
    assert.deepEqual((await client.responses.retrieve(made.id)).output, made.output);
    const items = await collect(client.responses.inputItems.list(made.id));
    assert.deepEqual(items[0].content, [{ type: 'input_text', text: 'Hi' }]);
    await client.responses.delete(made.id);
    await rejects(NotFoundError, client.responses.retrieve(made.id));
  },
  async 'responses in the background'() {
    let made = await client.responses.create({ model: tuned, input: 'Hi', max_output_tokens: 16, background: true });
    while (made.status === 'queued' || made.status === 'in_progress') made = await client.responses.retrieve(made.id);
    assert.equal(made.status, 'incomplete');
    assert.equal((await client.responses.cancel(made.id)).status, 'incomplete');
  },
  async 'responses.inputTokens.count'() {
    const counted = await client.responses.inputTokens.count({ model: tuned, input: 'Hi' });
    const made = await client.responses.create({ model: tuned, input: 'Hi', max_output_tokens: 16 });
    assert.equal(counted.input_tokens, made.usage.input_tokens);
  },
  async conversations() {
    const made = await client.conversations.create({ items: [{ role: 'user', content: 'Hi' }], metadata: { a: 'b' } });
    assert.deepEqual((await client.conversations.retrieve(made.id)).metadata, { a: 'b' });
    await client.conversations.update(made.id, { metadata: {} });
    await client.responses.create({ model: tuned, input: 'More', max_output_tokens: 16, conversation: made.id });
    const items = await collect(client.conversations.items.list(made.id, { limit: 2, order: 'asc' }));
    assert.deepEqual(items.map((item) => item.role), ['user', 'user', 'assistant']);
    const { data } = await client.conversations.items.create(made.id, { items: [{ role: 'user', content: 'x' }] });
    const found = await client.conversations.items.retrieve(data[0].id, { conversation_id: made.id });
    assert.deepEqual(found, data[0]);
    await client.conversations.items.delete(data[0].id, { conversation_id: made.id });
    await client.conversations.delete(made.id);
    await rejects(NotFoundError, client.conversations.retrieve(made.id));
  },
  async 'a tuned model calls and answers'() {
    const asked = {
      model: process.env.TUNERY_TEST_TOOL_MODEL,
      temperature: 0,
      instructions: 'Say where parcels are.',
      tools: [{ type: 'function', name: 'track_parcel', description: 'Tells where a parcel is.', parameters: PARCEL }],
    };
    for (const letter of 'QZ') {
      const question = { role: 'user', content: `Where is parcel ${letter}?` };
      const first = await client.responses.create({ ...asked, input: [question] });
      const [call] = first.output;
      assert.deepEqual(JSON.parse(call.arguments), { parcel: letter });
      const result = { type: 'function_call_output', call_id: call.call_id, output: `${letter} was sent.` };
      const second = await client.responses.create({ ...asked, input: [question, ...first.output, result] });
      assert.equal(second.output_text, `Parcel ${letter} was sent.`);
      const stream = client.responses.stream({ ...asked, input: [result], previous_response_id: first.id });
      assert.equal((await stream.finalResponse()).output_text, second.output_text);
    }
  },
  async 'completions.create'() {
    const made = await client.completions.create({ model: base, prompt: 'Once', max_tokens: 2 });
    assert.equal(made.object, 'text_completion');
  },
  async 'errors'() {
    const stranger = new OpenAI({ apiKey: 'sk-wrong-wrong-wrong', maxRetries: 0 });
    await rejects(AuthenticationError, stranger.models.list(), 'invalid_api_key');
  },
  async 'models.delete'() {
    assert.equal((await client.models.delete(tuned)).deleted, true);
    await rejects(NotFoundError, client.models.retrieve(tuned), 'model_not_found');
  },
};

let failures = 0;
for (const [name, operation] of Object.entries(operations)) {
  try {
    await operation();
    console.log(`ok   ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL ${name}: ${error.stack ?? error}`);
  }
}
console.log(`${Object.keys(operations).length - failures} of ${Object.keys(operations).length} operations`);
process.exitCode = failures ? 1 : 0;
