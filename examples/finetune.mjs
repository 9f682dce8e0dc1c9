// OpenAI's fine-tuning guide, run against Tunery: only `baseURL` differs.
//
//     npm install openai
//     export OPENAI_API_KEY=sk-…        # printed by the first `tunery serve`
//     node examples/finetune.mjs

import fs from "fs";
import OpenAI from "openai";

const openai = new OpenAI({ baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1" });

const file = await openai.files.create({
  file: fs.createReadStream(process.argv[2] ?? new URL("marv.jsonl", import.meta.url)),
  purpose: "fine-tune",
});

let job = await openai.fineTuning.jobs.create({
  training_file: file.id,
  model: "gpt-4o-mini-2024-07-18",
  suffix: "marv",
});

while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 2000));
  job = await openai.fineTuning.jobs.retrieve(job.id);
  const events = await openai.fineTuning.jobs.listEvents(job.id, { limit: 1 });
  console.log(job.status, events.data[0].message);
}

if (!job.fine_tuned_model) throw new Error(JSON.stringify(job.error));

const completion = await openai.chat.completions.create({
  model: job.fine_tuned_model,
  messages: [
    { role: "system", content: "Marv is a factual chatbot that is also sarcastic." },
    { role: "user", content: "What is the capital of Italy?" },
  ],
});
console.log(job.fine_tuned_model);
console.log(completion.choices[0].message.content);
