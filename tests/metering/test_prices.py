from datetime import UTC, datetime
from pathlib import Path

import pytest

from tunery.domain.usage import PICO, Cost, Price, TokenUsage
from tunery.metering.prices import PriceTable, PriceTableError
from tunery.models.catalog import Catalog

BASE = "gpt-4o-mini-2024-07-18"
TUNED = f"ft:{BASE}:acme::abcdefgh"
NOW = 1_800_000_000.0

ENTRY = """
currency = "usd"

[[prices]]
model = "m"
from = 2024-01-01
training = 1
input = 2
cached_input = 3
output = 4
base_input = 5
base_cached_input = 6
base_output = 7
"""


def load(tmp_path: Path, text: str, models: tuple[str, ...] = ()) -> PriceTable:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return PriceTable.load(path, models)


def day(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_shipped_table_has_openais_prices() -> None:
    table = PriceTable.load()
    assert table.currency == "usd"
    assert table.price_of(TUNED, NOW) == Price(300_000, 150_000, 1_200_000, 3_000_000)
    assert table.price_of(BASE, NOW) == Price(150_000, 75_000, 600_000)
    assert table.training_price("gpt-4.1-2025-04-14", NOW) == 25_000_000


def test_every_openai_name_of_the_catalog_has_a_price() -> None:
    table = PriceTable.load()
    named = [model.name for model in Catalog.load() if model.name.startswith(("gpt", "babbage", "davinci"))]
    assert named and all(table.training_price(name, NOW) > 0 for name in named)


def test_a_base_of_ones_own_costs_the_default() -> None:
    assert PriceTable.load().price_of("smollm2-135m-instruct", NOW) == Price()


def test_a_checkpoint_costs_what_its_model_costs() -> None:
    assert PriceTable.load().price_of(f"{TUNED}:ckpt-step-80", NOW).output == 1_200_000


def test_a_batch_costs_half_and_training_does_not() -> None:
    assert PriceTable.load().price_of(TUNED, NOW, is_batch=True) == Price(150_000, 75_000, 600_000, 3_000_000)


def test_a_price_holds_from_its_day_on(tmp_path: Path) -> None:
    later = ENTRY.replace("2024-01-01", "2025-06-01").replace("input = 2", "input = 20").split("\n\n")[1]
    table = load(tmp_path, f"{ENTRY}\n{later}")
    tuned = "ft:m:o::abcdefgh"
    assert table.price_of(tuned, day("2025-05-31T23:59:59")).input == 2
    assert table.price_of(tuned, day("2025-06-01T00:00:00")).input == 20
    assert table.price_of(tuned, day("1999-01-01T00:00:00")).input == 2, "before the first day, the first price"


def test_cost_is_exact_to_the_single_token() -> None:
    price = Price(input=75_000, cached_input=37_500, output=600_001)
    cost = price.cost(TokenUsage(input_tokens=3, cached_tokens=1, output_tokens=7))
    assert cost == Cost(input=150_000, cached=37_500, output=4_200_007)
    million = Price(input=300_000).cost(TokenUsage(input_tokens=1_000_000))
    assert million.total == 3 * PICO // 10


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("output = 4", "output = -4", 10, "output must not be negative"),
        ("output = 4", "output = 4.5", 10, "whole number"),
        ("output = 4", "output = true", 10, "whole number"),
        ("output = 4\n", "", 4, "output is missing"),
        ('model = "m"\n', "", 4, "no model"),
        ("from = 2024-01-01", 'from = "2024-01-01"', 6, "a day such as"),
        ("output = 4", "output = 4\nouput = 5", 11, "unknown key 'ouput'"),
        ('currency = "usd"', "currency = 5", 2, "three letters"),
        ('currency = "usd"', 'currency = "usd"\nbatch_percent = 101', 3, "0 to 100"),
        ('currency = "usd"', 'currency = "usd"\nprize = 1', 3, "unknown key 'prize'"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, problem: str) -> None:
    with pytest.raises(PriceTableError, match=rf"prices\.toml, line {line}: .*{problem}"):
        load(tmp_path, ENTRY.replace(old, new))


def test_the_line_is_that_of_the_entry_at_fault(tmp_path: Path) -> None:
    second = ENTRY.split("\n\n")[1].replace('"m"', '"n"').replace("training = 1", "training = -1")
    with pytest.raises(PriceTableError, match="line 18: training must not be negative"):
        load(tmp_path, f"{ENTRY}\n{second}")


def test_two_prices_from_one_day_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match="line 15: a second price for m"):
        load(tmp_path, f"{ENTRY}\n{ENTRY.split(chr(10) * 2)[1]}")


def test_a_model_without_a_price_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match="no price for smollm2"):
        load(tmp_path, ENTRY, ("m", "smollm2"))
    default = "[default]\ntraining = 0\ninput = 1\ncached_input = 0\noutput = 2\n"
    table = load(tmp_path, f"{ENTRY}\n{default}", ("m", "smollm2"))
    assert table.price_of("smollm2", NOW).output == 2


def test_a_file_that_is_no_toml_or_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match=r"not valid TOML.*line 1"):
        load(tmp_path, "currency = usd")
    with pytest.raises(PriceTableError, match="cannot be read"):
        PriceTable.load(tmp_path / "missing.toml")
