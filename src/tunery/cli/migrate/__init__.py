"""`tunery migrate openai`: the way out of OpenAI, one command a step, in the order in which they are needed."""

import typer

from tunery.cli.migrate import answers, bring, report, retrain, switch

openai = typer.Typer(
    no_args_is_help=True,
    help="""Move fine-tuned models from OpenAI to this server.

    1. `inventory`: what is there, and how long it still works.
    2. `import`: bring out files, jobs, evals and stored completions.
    3. `capture`, `recorded`: keep how the old models answer, while they do.
    4. `retrain` or `distill`: train successors here.
    5. `report`: old, base and new on the same rows: is it safe to switch? `evals`: old evals again, on the successors.
    6. `switch`: let the old name answer with the new model; `back` undoes it at once.
    """,
)
openai.command("inventory")(bring.inventory)
openai.command("import")(bring.import_)
openai.command("capture")(answers.capture)
openai.command("recorded")(answers.recorded)
openai.command("retrain")(retrain.retrain)
openai.command("distill")(retrain.distill)
openai.command("evals")(retrain.evals)
openai.command("report")(report.report)
openai.command("switch")(switch.switch)
openai.command("back")(switch.back)

app = typer.Typer(no_args_is_help=True, help="Move in from another platform.")
app.add_typer(openai, name="openai")
