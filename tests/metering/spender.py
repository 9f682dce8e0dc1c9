"""A client in a process of its own: asks for completions until it has every answer, however often servers die.

`python spender.py KEY FIRST NUMBER URL URL …`: prints the sum of the usage that it received, as JSON.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

MODEL = "gpt-4o-mini"
THREADS = 6
GIVE_UP_S = 400


class Spender:
    def __init__(self, key: str, urls: list[str]) -> None:
        self.urls = urls
        self.retries = 0
        limits = httpx.Limits(max_connections=2 * THREADS)
        self.client = httpx.Client(timeout=120, headers={"authorization": f"Bearer {key}"}, limits=limits)

    def ask(self, number: int) -> dict:
        """The usage of the answer that arrived. Every attempt at one completion has the same id."""
        deadline = time.monotonic() + GIVE_UP_S
        for attempt in range(10_000):
            url = self.urls[(number + attempt) % len(self.urls)]
            try:
                usage = self.stream(url, number) if number % 2 else self.whole(url, number)
            except (httpx.HTTPError, ValueError):
                usage = None
            if usage is not None:
                return usage
            if time.monotonic() > deadline:
                break
            self.retries += 1
            time.sleep(0.1)
        raise TimeoutError(f"no answer to completion {number}")

    def body(self, number: int, **more: object) -> dict:
        messages = [{"role": "user", "content": f"Question number {number % 17}: what comes next?"}]
        return {"model": MODEL, "messages": messages, "max_tokens": 1 + number % 4, "temperature": 0, **more}

    def headers(self, number: int) -> dict[str, str]:
        return {"idempotency-key": f"completion-{number}"}

    def whole(self, url: str, number: int) -> dict | None:
        answer = self.client.post(url, json=self.body(number), headers=self.headers(number))
        return answer.json()["usage"] if answer.status_code == 200 else None

    def stream(self, url: str, number: int) -> dict | None:
        body = self.body(number, stream=True, stream_options={"include_usage": True})
        usage = None
        with self.client.stream("POST", url, json=body, headers=self.headers(number)) as answer:
            if answer.status_code != 200:
                return None
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
        return usage


def main(key: str, first: int, number: int, urls: list[str]) -> None:
    spender = Spender(key, urls)
    with ThreadPoolExecutor(THREADS) as threads:
        usages = list(threads.map(spender.ask, range(first, first + number)))
    total = {
        "requests": len(usages),
        "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
        "cached_tokens": sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages),
        "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        "retries": spender.retries,
    }
    sys.stdout.write(json.dumps(total))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
