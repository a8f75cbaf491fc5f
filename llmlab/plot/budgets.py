"""What a budget of FLOPs buys: the loss against the size of the model that it is spent on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from llmlab.arguments import listing as listing_
from llmlab.arguments import numbers, table
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import LINE_COLOURS, MARKERS, SOLID, listing


@styled
def losses_by_size(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    best: Mapping[str, tuple[float, float]],
    figure: Picture | None = None,
) -> Picture:
    """Draw the loss that a fixed budget buys against the parameters it is spent on, {name: (parameters, nats)}.

    best: {name: (parameters, nats)} of each curve's lowest point.
    """
    table("losses_by_size", "curves", curves, "{name: (parameters, nats)}")
    table("losses_by_size", "best", best, "{name: (parameters, nats)}")
    for name, pair in curves.items():
        lengths = [len(numbers("losses_by_size", name, each)) for each in listing_("losses_by_size", name, pair)]
        if len(lengths) != 2 or lengths[0] != lengths[1]:
            raise ValueError(f"losses_by_size wants {name} as (parameters, nats) of one length; got lengths {lengths}")
    for name, point in best.items():
        if len(numbers("losses_by_size", f"the best of {name}", point)) != 2:
            raise ValueError(f"losses_by_size wants the best of {name} as (parameters, nats); got {point!r}")
    if curves.keys() != best.keys():
        raise ValueError(f"losses_by_size wants a best point for each curve, got {list(curves)} and {list(best)}")
    figure = canvas(figure, (9, 4.2))
    axes = figure.subplots()
    for i, (name, (sizes, nats)) in enumerate(curves.items()):
        axes.plot(
            sizes, nats, color=LINE_COLOURS[i], linestyle=(SOLID, "--", "-.", ":")[i % 4], linewidth=2.2, label=name
        )
        axes.plot(*best[name], marker=MARKERS[i], color=LINE_COLOURS[i], markersize=10)
    axes.set(xscale="log", xlabel="parameters", ylabel="loss (nats a token)")
    axes.xaxis.set_major_locator(FixedLocator([10.0**k for k in range(6, 15)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: say_params(value))
    axes.grid()
    axes.legend()
    said = [f"{name} lowest at {say_params(best[name][0])} with {best[name][1]:.2f} nats" for name in curves]
    return finish(figure, f"Loss of a fixed budget against parameters: {listing(said)}.")


def say_params(n: float) -> str:
    """Write a count of parameters as papers do: `70B`."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if n >= 0.9995 * unit:
            return f"{n / unit:.3g}{letter}"
    return f"{n:,.0f}"
