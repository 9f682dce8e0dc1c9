// The AI SDK's provider for any server of Open Responses.
// OPENAI_BASE_URL, OPENAI_API_KEY and TUNERY_TEST_MODEL say where, as whom and which model.
// Prints one line an operation and ends with 1 when one failed.

import assert from 'node:assert/strict';
import { createOpenResponses } from '@ai-sdk/open-responses';
import { generateText, Output, streamText, tool } from 'ai';
import { z } from 'zod';

// A random model would call a tool again and again, and this provider has no name for one call only.
function fetchOneCall(url, init) {
  return fetch(url, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), parallel_tool_calls: false }) });
}

const provider = createOpenResponses({
  name: 'tunery',
  url: `${process.env.OPENAI_BASE_URL}/responses`,
  apiKey: process.env.OPENAI_API_KEY,
  fetch: fetchOneCall,
});
const settings = { model: provider(process.env.TUNERY_TEST_MODEL), temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
const weather = tool({
  description: 'Tells the weather.',
  inputSchema: z.object({ city: z.enum(['Rome', 'Oslo']) }),
  execute: async ({ city }) => `Sunny in ${city}.`,
});

const operations = {
  async generateText() {
    const answer = await generateText({ ...settings, system: 'Be brief.', prompt: 'Hi' });
    assert.equal(answer.finishReason, 'length');
    assert.equal(answer.usage.outputTokens, 16);
  },
  async streamText() {
    const whole = await generateText({ ...settings, prompt: 'Hi' });
    const stream = streamText({ ...settings, prompt: 'Hi' });
    let text = '';
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, whole.text);
    assert.equal(await stream.finishReason, 'length');
  },
  async 'an object by its schema'() {
    const output = Output.object({ schema: z.object({ verdict: z.enum(['sunny', 'rainy']) }) });
    const answer = await generateText({ ...settings, maxOutputTokens: 200, output, prompt: 'The weather?' });
    assert.ok(['sunny', 'rainy'].includes(answer.output.verdict));
  },
  async 'two turns with tools'() {
    const question = { role: 'user', content: 'The weather in Rome?' };
    const asked = { ...settings, maxOutputTokens: 200, tools: { weather }, toolChoice: 'required' };
    const first = await generateText({ ...asked, messages: [question] });
    assert.equal(first.finishReason, 'tool-calls');
    assert.match(first.toolResults[0].output, /^Sunny in (Rome|Oslo)\.$/);
    const messages = [question, ...first.response.messages];
    const answered = { ...settings, tools: { weather }, toolChoice: 'none' };
    const second = await generateText({ ...answered, messages });
    assert.equal(second.finishReason, 'length');
    const without = await generateText({ ...answered, messages: [question] });
    assert.ok(second.usage.inputTokens > without.usage.inputTokens);
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
