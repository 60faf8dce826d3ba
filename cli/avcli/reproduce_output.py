"""What `avkit reproduce` prints of its plan."""

from collections.abc import Sequence

import typer

from avmodel.reproduce.paper import Table, printed
from avmodel.reproduce.plan import Plan


def print_tables(tables: Sequence[Table]) -> None:
    """Each table, its rows with the paper's numbers, and why some cannot be run."""
    for table in tables:
        typer.echo(f"table {table.number}: {table.title}")
        typer.echo(f"  {'; '.join(column.name for column in table.columns)}")
        for row in table.rows:
            numbers = "  ".join(map(printed, row.paper))
            typer.echo(f"  {row.name}:  {numbers}")
            for reason, columns in table.reasons(row).items():
                where = "" if len(columns) == len(table.columns) else f"{', '.join(columns)}: "
                typer.echo(f"    not run: {where}{reason}")
        typer.echo("")


def print_costs(plan: Plan) -> None:
    """The commands in order, what is missing, and the estimate of the published scale."""
    for step in plan.steps:
        typer.echo(step.command)
    for text in plan.missing:
        typer.echo(f"missing: {text}", err=True)
    if plan.scale == "tiny":
        return
    from avmodel.reproduce.estimate import CARD, CARDS, SHARE, card_gb, costs_of

    typer.echo(f"\nEstimated, at {SHARE:.0%} of the matrix rate of an {CARD}; not measured:")
    heads = (
        f"{'hours on 1':>10}",
        f"{f'on {CARDS}':>8}",
        f"{'GB a card, 1':>13}",
        f"{f'of {CARDS}':>8}",
        f"{'of state':>9}",
    )
    typer.echo(f"{'command':50} {' '.join(heads)}")
    total = 0.0
    for cost in costs_of(plan.paper, plan.steps):
        total += cost.hours
        trains = cost.step.words[0] == "pretrain"
        sizes = [card_gb(plan.paper, cost.step, cards) if trains else None for cards in (1, CARDS)]
        memory = ["-" if size is None else f"{size:.1f}" for size in sizes]
        state = f"{cost.state_gb:.1f}" if cost.state_gb else "-"
        hours = f"{cost.hours:>10.1f} {cost.hours_on(CARDS):>8.1f}"
        typer.echo(f"{cost.step.name:50} {hours} {memory[0]:>13} {memory[1]:>8} {state:>9}")
    typer.echo(f"{'all':50} {total:>10.1f} {total / CARDS:>8.1f}")
