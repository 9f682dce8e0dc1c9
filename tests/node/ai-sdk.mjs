// The AI SDK as it comes: `openai(name)` asks for responses, and sends what was answered before as references.
// OPENAI_BASE_URL, OPENAI_API_KEY and TUNERY_TEST_MODEL say where, as whom and which model. The model is random, so that
// what it must say is chosen by schemas; what is tested is that SDK and server understand each other. That of
// TUNERY_TEST_TOOL_MODEL has learnt to call `track_parcel`.
// Prints one line an operation and ends with 1 when one failed.

import assert from 'node:assert/strict';
import { createOpenAI } from '@ai-sdk/openai';
import { generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const bodies = [];

function fetchAndKeep(url, init) {
  bodies.push(init.body);
  return fetch(url, init);
}

const openai = createOpenAI({
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  fetch: fetchAndKeep,
});
const model = openai(process.env.TUNERY_TEST_MODEL);
const settings = { model, temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
const oneCall = { providerOptions: { openai: { parallelToolCalls: false } } };
const weather = tool({
  description: 'Tells the weather.',
  inputSchema: z.object({ city: z.enum(['Rome', 'Oslo']) }),
  execute: async ({ city }) => `Sunny in ${city}.`,
});
const tracking = tool({
  description: 'Tells where a parcel is.',
  inputSchema: z.object({ parcel: z.string() }),
  execute: async ({ parcel }) => `${parcel} was sent.`,
});

const operations = {
  async generateText() {
    const answer = await generateText({ ...settings, system: 'Be brief.', prompt: 'Hi' });
    assert.equal(answer.finishReason, 'length');
    assert.equal(answer.usage.outputTokens, 16);
    assert.match(answer.response.id, /^resp_/);
  },
  async streamText() {
    const whole = await generateText({ ...settings, prompt: 'Hi' });
    const stream = streamText({ ...settings, prompt: 'Hi' });
    let text = '';
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, whole.text);
    assert.equal(await stream.finishReason, 'length');
  },
  async generateObject() {
    const schema = z.object({ verdict: z.enum(['sunny', 'rainy']) });
    const answer = await generateObject({ ...settings, maxOutputTokens: 200, schema, prompt: 'The weather?' });
    assert.ok(['sunny', 'rainy'].includes(answer.object.verdict));
    assert.equal(answer.finishReason, 'stop');
  },
  async 'two turns of text'() {
    const question = { role: 'user', content: 'Hi' };
    const first = await generateText({ ...settings, messages: [question] });
    const messages = [question, ...first.response.messages, { role: 'user', content: 'More' }];
    const second = await generateText({ ...settings, messages });
    assert.match(bodies.at(-1), /item_reference/);
    assert.ok(second.usage.inputTokens > first.usage.inputTokens);
  },
  async 'two turns with tools'() {
    const question = { role: 'user', content: 'The weather in Rome?' };
    const asked = { ...settings, ...oneCall, maxOutputTokens: 200, tools: { weather } };
    const first = await generateText({ ...asked, toolChoice: 'required', messages: [question] });
    assert.equal(first.finishReason, 'tool-calls');
    assert.match(first.toolResults[0].output, /^Sunny in (Rome|Oslo)\.$/);
    const messages = [question, ...first.response.messages];
    const second = await generateText({ ...settings, tools: { weather }, toolChoice: 'none', messages });
    assert.equal(second.finishReason, 'length');
  },
  async 'a tool, streamed'() {
    const asked = { ...settings, ...oneCall, maxOutputTokens: 200, tools: { weather }, toolChoice: 'required' };
    const stream = streamText({ ...asked, prompt: 'The weather in Rome?' });
    await stream.consumeStream();
    const [call] = await stream.toolCalls;
    assert.equal(call.toolName, 'weather');
    assert.equal(await stream.finishReason, 'tool-calls');
  },
  async 'turns by previous response'() {
    const first = await generateText({ ...settings, prompt: 'One' });
    const providerOptions = { openai: { previousResponseId: first.response.id } };
    const second = await generateText({ ...settings, prompt: 'Two', providerOptions });
    assert.ok(second.usage.inputTokens > first.usage.inputTokens);
  },
  async 'chat by name'() {
    const answer = await generateText({ ...settings, model: openai.chat(process.env.TUNERY_TEST_MODEL), prompt: 'Hi' });
    const same = await generateText({ ...settings, prompt: 'Hi' });
    assert.equal(answer.text, same.text);
  },
  async 'a tuned model calls and answers'() {
    for (const letter of 'QZ') {
      const asked = {
        ...settings,
        model: openai(process.env.TUNERY_TEST_TOOL_MODEL),
        maxOutputTokens: 100,
        system: 'Say where parcels are.',
        prompt: `Where is parcel ${letter}?`,
        tools: { track_parcel: tracking },
        stopWhen: stepCountIs(3),
      };
      const whole = await generateText(asked);
      const stream = streamText(asked);
      await stream.consumeStream();
      for (const [text, steps] of [[whole.text, whole.steps], [await stream.text, await stream.steps]]) {
        assert.deepEqual(steps[0].toolCalls.map((call) => call.input), [{ parcel: letter }]);
        assert.equal(text, `Parcel ${letter} was sent.`);
      }
    }
  },
};

let failed = 0;
for (const [name, operation] of Object.entries(operations)) {
  try {
    await operation();
    console.log(`passed ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.stack ?? error}`);
  }
}
process.exit(failed ? 1 : 0);
