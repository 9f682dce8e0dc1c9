"""The official SDK in a page of another origin, in a real browser."""

from playwright.sync_api import Browser

from tests import node_clients
from tests.api.conftest import BASE, SECRET
from tests.contract.conftest import Live

PROGRAM = """async ([baseURL, apiKey, model]) => {
  const { OpenAI } = await import('/index.mjs');
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true });
  const asked = { model, messages: [{ role: 'user', content: 'Hi' }], max_tokens: 16, temperature: 0 };
  const { data, request_id } = await client.chat.completions.create(asked).withResponse();
  let streamed = '';
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
    streamed += chunk.choices[0]?.delta?.content ?? '';
  const answer = await client.responses.create({ model, input: 'Hi', max_output_tokens: 16, temperature: 0 });
  await client.responses.delete(answer.id);
  const refused = await client.models.retrieve('nothing').catch((error) => `${error.status} ${error.code}`);
  return { whole: data.choices[0].message.content, streamed, request_id, answered: answer.output_text, refused };
}"""
FROM_ELSEWHERE = "(url) => fetch(url).then(() => 'answered', () => 'refused')"


def test_the_sdk_in_a_page_of_an_allowed_origin(live: Live, browser: Browser, page_origin: str) -> None:
    node_clients.install("current")
    page = browser.new_page()
    page.goto(f"{page_origin}/LICENSE")
    seen = page.evaluate(PROGRAM, [live.base_url, SECRET, BASE])
    page.close()
    assert seen["whole"] == seen["streamed"] == seen["answered"]
    assert seen["request_id"].startswith("req_")
    assert seen["refused"] == "404 model_not_found"


def test_a_page_of_another_origin_is_refused(live: Live, browser: Browser, page_origin: str) -> None:
    page = browser.new_page()
    page.goto(f"{page_origin.replace('127.0.0.1', 'localhost')}/LICENSE")
    assert page.evaluate(FROM_ELSEWHERE, f"{live.base_url}/models") == "refused"
    page.close()
